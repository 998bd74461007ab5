// SPDX-License-Identifier: Apache-2.0
#include <allfold/store/all_gather.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/store/hash.hpp>
#include <allfold/store/prefix.hpp>

#include <support/store_conformance.hpp>

using allfold::HashStore;
using allfold::store_all_gather;
using namespace allfold_test;

namespace {

struct Card {
  std::int32_t rank;
  char name[12];
};

}  // namespace

TEST_CASE("store_all_gather returns every rank's value in rank order") {
  for (const int world_size : {1, 2, 3, 8}) {
    HashStore hub;
    on_threads(world_size, [&](int rank) {
      Card mine = {rank, "card"};
      mine.name[4] = static_cast<char>('a' + rank);
      const std::vector<Card> all = store_all_gather(hub, "cards", rank, world_size, mine, soon());
      if (all.size() != static_cast<std::size_t>(world_size)) throw std::runtime_error("wrong size");
      for (int r = 0; r < world_size; ++r) {
        const Card& theirs = all[static_cast<std::size_t>(r)];
        if (theirs.rank != r || theirs.name[4] != 'a' + r) throw std::runtime_error("wrong card");
      }
      // Another key is another gather, and any store will do.
      allfold::PrefixStore prefixed(hub, "again");
      const std::vector<int> squares = store_all_gather(prefixed, "squares", rank, world_size, rank * rank, soon());
      if (squares.back() != (world_size - 1) * (world_size - 1)) throw std::runtime_error("wrong square");
    });
    CHECK(hub.check(Strings{"cards/0", "again/squares/0"}));
  }
}

TEST_CASE("store_all_gather names the rank that did not arrive") {
  HashStore hub;
  hub.set("late/0", std::string(4, 'x'));
  hub.set("late/2", std::string(4, 'x'));
  try {
    store_all_gather(hub, "late", 3, 5, std::int32_t{7}, within_ms(30));
    FAIL("no error");
  } catch (const allfold::TimeoutError& error) {
    CHECK(error.source_rank() == 1);
    CHECK(error.rank() == 3);
    CHECK(contains(error.what(), "allfold: rank 3/5: store_all_gather: rank 1 did not arrive"));
  }
}

TEST_CASE("store_all_gather refuses a value of another size, and a rank outside of the world") {
  HashStore hub;
  hub.set("sizes/1", "123");
  try {
    store_all_gather(hub, "sizes", 0, 2, std::int32_t{7}, soon());
    FAIL("no error");
  } catch (const allfold::MismatchError& error) {
    CHECK(error.source_rank() == 1);
    CHECK(contains(error.what(), "expected 4 bytes, got 3"));
  }
  CHECK(contains(message_of<allfold::UsageError>([&] { store_all_gather(hub, "outside", 2, 2, 1, soon()); }),
                 "expected 0 to 1, got 2"));
  CHECK(
      contains(message_of<allfold::UsageError>([&] { store_all_gather(hub, "outside", 0, -1, 1, soon()); }), "got 0"));
}
