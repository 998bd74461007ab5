// SPDX-License-Identifier: Apache-2.0
#include <cstddef>

#include <doctest/doctest.h>

#include <allfold/algo/chunk.hpp>
#include <allfold/memory/call_record.hpp>
#include <allfold/memory/signal.hpp>

using allfold::Arrival;
using allfold::arrival;
using allfold::make_signal;

TEST_CASE("a signal is here, not yet, or of another call") {
  CHECK(arrival(make_signal(5, 7), make_signal(5, 7)) == Arrival::here);
  CHECK(arrival(make_signal(5, 8), make_signal(5, 7)) == Arrival::mismatched);
  CHECK(arrival(make_signal(4, 7), make_signal(5, 7)) == Arrival::not_yet);
  CHECK(arrival(0, make_signal(1, 7)) == Arrival::not_yet);
}

TEST_CASE("a peer that has gone on has been here, whatever it calls now") {
  CHECK(arrival(make_signal(6, 99), make_signal(5, 7)) == Arrival::here);
  CHECK(arrival(make_signal(7, 99), make_signal(5, 7)) == Arrival::here);
}

TEST_CASE("epochs wrap around") {
  CHECK(arrival(make_signal(0, 7), make_signal(0xffffffff, 7)) == Arrival::here);
  CHECK(arrival(make_signal(0xffffffff, 7), make_signal(0, 7)) == Arrival::not_yet);
}

TEST_CASE("a word that was not written for very long is not ahead") {
  CHECK(arrival(0, make_signal(0x80000001, 7)) == Arrival::not_yet);
  CHECK(arrival(make_signal(1000, 7), make_signal(0x90000000, 7)) == Arrival::not_yet);
  CHECK(arrival(make_signal(5 + allfold::most_epochs_ahead, 7), make_signal(5, 7)) == Arrival::here);
  CHECK(arrival(make_signal(6 + allfold::most_epochs_ahead, 7), make_signal(5, 7)) == Arrival::not_yet);
}

TEST_CASE("slots of an inbox turn by the epoch, across its wrap too") {
  CHECK(allfold::push_slot(0, 0, 2) == 0);
  CHECK(allfold::push_slot(1, 0, 2) == 4);
  CHECK(allfold::push_slot(0, 1, 2) == 4 * (allfold::push_slots - 1));
  CHECK(allfold::push_slot(0xffffffff, 0, 2) == allfold::push_slot(0, 1, 2));
}

TEST_CASE("what is pushed at a time: a slot, or half of a part that one slot holds") {
  CHECK(allfold::push_chunk(513, 512, 8) == 512);
  CHECK(allfold::push_chunk(512, 512, 8) == 256);
  CHECK(allfold::push_chunk(264, 512, 8) == 136);
  CHECK_MESSAGE(allfold::push_chunk(256, 512, 8) == 512, "short parts are not cut");
  CHECK(allfold::push_chunk(0, 512, 8) == 512);
  for (std::size_t part = 1; part < 600; ++part) CHECK(allfold::push_chunk(part, 512, 8) <= 512);
}

TEST_CASE("calls that differ in one thing have different tags") {
  allfold::CallRecord call;
  call.operation = allfold::Operation::all_reduce;
  call.count = 100;
  call.in = {.window = 1, .offset = 16};
  call.out = {.window = 1, .offset = 0};
  const auto differs = [&](auto&& change) {
    allfold::CallRecord other = call;
    change(other);
    return other.tag() != call.tag();
  };
  CHECK(differs([](auto& c) { c.count = 101; }));
  CHECK(differs([](auto& c) { c.type = 1; }));
  CHECK(differs([](auto& c) { c.reduction = 1; }));
  CHECK(differs([](auto& c) { c.algorithm = allfold::Algorithm::two_shot; }));
  CHECK(differs([](auto& c) { c.in = {}; }));
  CHECK(differs([](auto& c) { c.out.window = 2; }));
  CHECK(differs([](auto& c) {
    c.in.offset = 0;
    c.out.offset = 16 << 20;
  }));
}

TEST_CASE("every block goes around all peers, and no two ranks are at the same one at once") {
  for (int ranks = 2; ranks <= 8; ++ranks) {
    for (int block = 0; block < 9; ++block) {
      for (int n = 0; n < ranks - 1; ++n) {
        unsigned taken = 0;
        for (int me = 0; me < ranks; ++me) {
          const int peer = allfold::nth_peer(me, ranks, block, n);
          CHECK(peer != me);
          taken |= 1U << peer;
        }
        CHECK(taken == (1U << ranks) - 1);
      }
      unsigned met = 0;
      for (int n = 0; n < ranks - 1; ++n) met |= 1U << allfold::nth_peer(0, ranks, block, n);
      CHECK(met == (1U << ranks) - 2);
    }
  }
}
