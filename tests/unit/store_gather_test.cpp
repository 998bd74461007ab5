// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/communicator/store_gather.hpp>
#include <allfold/store/hash.hpp>

#include <support/ranks.hpp>

using namespace std::chrono_literals;

namespace {

allfold::StoreGather gather_of(allfold::HashStore& store, const allfold::Environment& environment,
                               allfold::Duration timeout) {
  return {store,
          "job",
          allfold::Where("create", environment.rank, environment.world_size),
          environment.rank,
          environment.world_size,
          allfold::Deadline::after(timeout)};
}

/// Of another length for each rank, and none for the first.
std::string word_of(int rank, int step) { return std::string(static_cast<std::size_t>(rank * (step + 1)), 'a'); }

}  // namespace

TEST_CASE("every rank gets every rank's bytes, in one group of ranks and in several") {
  for (const int ranks : {1, 2, 31, 32, 33, 70}) {
    CAPTURE(ranks);
    allfold::HashStore store;
    allfold_test::over_threads({ranks}, [&](const allfold::Environment& environment) {
      allfold::StoreGather gather = gather_of(store, environment, 60s);
      for (int step = 0; step < 3; ++step) {
        const std::vector<std::string> all = gather("words", word_of(environment.rank, step));
        EXPECT(all.size() == static_cast<std::size_t>(ranks));
        for (int r = 0; r < ranks; ++r) EXPECT(all[static_cast<std::size_t>(r)] == word_of(r, step));
      }
      gather.tidy();
    });
    const std::string leftovers[] = {"job/0/0", "job/1/0", "job/0/from 0", "job/1/from 0"};
    for (const std::string& key : leftovers) CHECK_FALSE(store.check(std::span(&key, 1)));
  }
}

TEST_CASE("ranks that do not come are named by all others") {
  for (const int absent : {0, 1, 32, 35}) {
    CAPTURE(absent);
    allfold::HashStore store;
    allfold_test::over_threads({36}, [&](const allfold::Environment& environment) {
      if (environment.rank == absent) return;
      allfold::StoreGather gather = gather_of(store, environment, 300ms);
      const std::string message = EXPECT_THROWS_AS(gather("words", "x"), allfold::TimeoutError);
      allfold_test::expect_contains(message, {allfold::concat({"rank ", absent, " of 36 did not arrive"}).c_str()});
    });
  }
}

TEST_CASE("who gives up is heard by all others, whichever group it is of") {
  allfold::HashStore store;
  allfold_test::over_threads({36}, [&](const allfold::Environment& environment) {
    allfold::StoreGather gather = gather_of(store, environment, 60s);
    if (environment.rank == 34) return gather.give_up("no memory");
    const auto begin = allfold::Clock::now();
    const std::string message = EXPECT_THROWS_AS(gather("words", "x"), allfold::PeerError);
    EXPECT(allfold::Clock::now() - begin < 30s);
    allfold_test::expect_contains(message, {"rank 34 gave up: no memory"});
  });
}
