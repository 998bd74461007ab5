// SPDX-License-Identifier: Apache-2.0
// Whoever does not come is named, whatever the others are waiting in.
#include <chrono>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <unistd.h>

#include <allfold/allfold.hpp>
#include <support/ranks.hpp>

using namespace std::chrono_literals;
using allfold::Algorithm;
using Comm = allfold::Communicator<>;

namespace {

/// Rank 2 stays away from one call; rank 0 comes to it later than the others. All who came must name rank 2, in time.
void stay_away(const allfold::Environment& environment, Algorithm algorithm, std::size_t count) {
  auto comm = Comm::create(environment);
  std::vector<float> data(count, 1.0F);
  comm.all_reduce(data, allfold::sum, {.algorithm = algorithm});
  const auto begin = allfold::Clock::now();
  if (environment.rank == 2) {
    ::usleep(1000000);
  } else {
    if (environment.rank == 0) ::usleep(100000);
    try {
      comm.all_reduce(data, allfold::sum, {.timeout = 400ms, .algorithm = algorithm});
      throw std::runtime_error("the call ended without rank 2");
    } catch (const allfold::TimeoutError& error) {
      EXPECT(error.source_rank() == 2);
      allfold_test::expect_contains(error.what(), {"rank 2 did not arrive", "all_reduce", "call 2 of channel 0"});
    }
    EXPECT(allfold::Clock::now() - begin < 400ms + 100ms + 3s);
  }
  // From now on every call says so, on the late rank too.
  const std::string later = EXPECT_THROWS_AS(comm.barrier(), allfold::TimeoutError);
  allfold_test::expect_contains(later, {"ended earlier", "create it again"});
  EXPECT_THROWS_AS(comm.status(), allfold::TimeoutError);
}

}  // namespace

TEST_CASE("a rank that stays away is named by all, in every algorithm") {
  for (const Algorithm algorithm :
       {Algorithm::none, Algorithm::one_shot, Algorithm::one_shot_packet, Algorithm::two_shot,
        Algorithm::two_shot_packet, Algorithm::one_shot_push, Algorithm::two_shot_push}) {
    CAPTURE(allfold::name(algorithm));
    allfold_test::over_ranks({3},
                             [&](const allfold::Environment& environment) { stay_away(environment, algorithm, 8); });
  }
}

TEST_CASE("the same in a hybrid cube mesh, where most ranks are no neighbours of it") {
  allfold_test::over_processes(
      {8}, [](const allfold::Environment& environment) { stay_away(environment, Algorithm::hybrid_cube_mesh, 100); });
}

TEST_CASE("a timeout that is no time is refused, and the communicator lives on") {
  allfold_test::over_ranks({2}, [](const allfold::Environment& environment) {
    auto comm = Comm::create(environment);
    EXPECT_THROWS_AS(comm.barrier({.timeout = 0s}), allfold::UsageError);
    comm.barrier();
  });
}
