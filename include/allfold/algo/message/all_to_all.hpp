// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/parts.hpp>
#include <allfold/policy/message_algorithm.hpp>

/// All-to-all: part r of `in` goes to rank r, whose part of `out` for this rank it becomes. `in` may be `out`. Bytes.

namespace allfold::message {

/// Each rank sends straight to every other, the next one first, so that no two ranks begin with the same receiver.
/// Parts of any size: a rank's part for another is as long as the other's for it. In place what leaves is put aside
/// first.
template <endpoint E>
Task<bool> all_to_all_pairwise(E& e, const void* in, Parts in_parts, void* out, Parts out_parts, int step = 0) {
  const int ranks = e.world_size();
  std::size_t aside_bytes = 0;
  for (int i = 1; in == out && i < ranks; ++i) aside_bytes += in_parts.size_of(ring_rank(e.rank(), i, ranks));
  auto aside = e.scratch(aside_bytes);
  std::size_t at = 0;
  for (int i = 1; in == out && i < ranks; ++i) {
    const Range leaving = in_parts.of(ring_rank(e.rank(), i, ranks));
    if (!co_await e.copy(at_byte(aside.data(), at), at_byte(in, leaving.begin), leaving.size())) co_return false;
    at += leaving.size();
  }

  const Range kept = in_parts.of(e.rank());
  if (!co_await e.copy(at_byte(out, out_parts.of(e.rank()).begin), at_byte(in, kept.begin), kept.size())) {
    co_return false;
  }
  InFlight<E> flight;
  at = 0;
  for (int i = 1; i < ranks; ++i) {
    const int source = ring_rank(e.rank(), -i, ranks);
    const int target = ring_rank(e.rank(), i, ranks);
    const Range leaving = in_parts.of(target);
    if (!co_await flight.room(2)) co_return false;
    flight.add(receive_range(e, source, step, out, out_parts.of(source)));
    flight.add(in == out ? send_range(e, target, step, aside.data(), {at, at + leaving.size()})
                         : send_range(e, target, step, in, leaving));
    at += leaving.size();
  }
  co_return co_await flight.all();
}

/// Every second piece of the parts, from piece `first` on.
template <endpoint E>
Task<bool> all_to_all_pairwise_lane(E& e, const void* in, void* out, Parts parts, int first, int pieces) {
  for (int piece = first; piece < pieces; piece += 2) {
    const Parts part = parts.piece(piece, pieces);
    if (!co_await all_to_all_pairwise(e, in, part, out, part, phase(0) + piece)) co_return false;
  }
  co_return true;
}

/// The same for long parts: the even and the odd pieces go side by side. For equal parts.
template <endpoint E>
Task<bool> all_to_all_pairwise_pieces(E& e, const void* in, void* out, Parts parts, int pieces) {
  co_return co_await SideBySide(all_to_all_pairwise_lane(e, in, out, parts, 0, pieces),
                                all_to_all_pairwise_lane(e, in, out, parts, 1, pieces));
}

/// ceil(log2 P) steps: a block that has i ranks to go travels in the steps of i's bits, together with all that share
/// the bit. About P / 2 * log2 P blocks are sent instead of P - 1, so it is for small ones. For equal parts.
/// Source: Bruck, Ho, Kipnis, Upfal, Weathersby 1997.
template <endpoint E>
Task<bool> all_to_all_bruck(E& e, const void* in, void* out, std::size_t each, int first_step = 0) {
  const int ranks = e.world_size();
  const auto blocks = [each](int count) { return static_cast<std::size_t>(count) * each; };
  auto travelling = e.scratch(blocks(ranks));  // block i has i ranks to go
  auto packed = e.scratch(blocks(ranks));      // what leaves in a step, and behind it what comes
  const std::size_t own = blocks(e.rank());
  if (!co_await e.copy(travelling.data(), at_byte(in, own), blocks(ranks) - own)) co_return false;
  if (!co_await e.copy(at_byte(travelling.data(), blocks(ranks) - own), in, own)) co_return false;

  for (int step = first_step, distance = 1; distance < ranks; ++step, distance *= 2) {
    std::size_t bytes = 0;
    for (int i = distance; i < ranks; i = (i + 1) | distance) {
      if (!co_await e.copy(at_byte(packed.data(), bytes), at_byte(travelling.data(), blocks(i)), each)) co_return false;
      bytes += each;
    }
    auto arrival = receive_range(e, ring_rank(e.rank(), -distance, ranks), step, packed.data(), {bytes, 2 * bytes});
    auto departure = send_range(e, ring_rank(e.rank(), distance, ranks), step, packed.data(), {0, bytes});
    if (!co_await ended(arrival, departure)) co_return false;
    for (int i = distance; i < ranks; i = (i + 1) | distance) {
      if (!co_await e.copy(at_byte(travelling.data(), blocks(i)), at_byte(packed.data(), bytes), each)) co_return false;
      bytes += each;
    }
  }

  for (int i = 0; i < ranks; ++i) {  // block i came from the rank i behind
    const int source = ring_rank(e.rank(), -i, ranks);
    if (!co_await e.copy(at_byte(out, blocks(source)), at_byte(travelling.data(), blocks(i)), each)) co_return false;
  }
  co_return true;
}

/// The algorithm of that name. `each`: bytes of the part for each rank.
template <endpoint E>
Task<bool> all_to_all(E& e, AllToAllMotion motion, const void* in, void* out, std::size_t each) {
  if (motion == AllToAllMotion::bruck) return all_to_all_bruck(e, in, out, each);
  const Parts parts = Parts::equal(each);
  const int pieces = pieces_of(each, piece_bytes_of(e));
  return pieces == 1 ? all_to_all_pairwise(e, in, parts, out, parts)
                     : all_to_all_pairwise_pieces(e, in, out, parts, pieces);
}

}  // namespace allfold::message
