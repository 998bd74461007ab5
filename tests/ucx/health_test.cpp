// SPDX-License-Identifier: Apache-2.0
// The check that a communicator makes of itself when it is created.
#include <chrono>
#include <csignal>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

#include <allfold/ucx.hpp>

#include <support/over_ucx.hpp>
#include <support/ranks.hpp>

using namespace std::chrono_literals;

namespace {

/// Stops the process of rank 1 as soon as it has met the others, before the check.
struct StopsRankOne {
  using policy_category = allfold::tracer_tag;
  static constexpr bool enabled = true;
  void record(const allfold::TraceEvent& event) {
    if (event.rank == 1) ::raise(SIGSTOP);
  }
};

}  // namespace

TEST_CASE("a healthy world passes") {
  allfold_test::over_ucx({1, 2, 3}, [](auto& comm) { comm.barrier(); },
                         {.health_check = true, .health_check_timeout = 10s});
}

TEST_CASE("a rank that does not answer is named, within the deadline") {
  allfold_test::take_ways("tcp");
  const auto check = [](const allfold::Environment& environment) {
    using Comm = allfold::Communicator<allfold::UcxTransport, StopsRankOne>;
    const auto begin = allfold::Clock::now();
    const auto attempt = Comm::try_create(
        environment, allfold::MessageOptions{.health_check = true, .health_check_timeout = 500ms, .linger = 100ms});
    EXPECT(!attempt && attempt.code() == allfold::ErrorCode::timeout);
    allfold_test::expect_contains(attempt.reason(), {"health check: rank 1 did not arrive", "500 ms"});
    EXPECT(allfold::Clock::now() - begin < 5s);
  };
  for (const allfold::Outcome& outcome : allfold::launch_outcomes(2, check, {.timeout = 6s})) {
    if (outcome.rank == 0) CHECK_MESSAGE(outcome.ok(), outcome.error);
  }
}

TEST_CASE("a check that hangs is given up") {
  const allfold::Where where("health check", 0, 2);
  const auto begin = allfold::Clock::now();
  CHECK_THROWS_WITH_AS(allfold::run_health_check(where, 50ms, [] { std::this_thread::sleep_for(3s); }),
                       doctest::Contains("the health check hangs"), allfold::TimeoutError);
  CHECK(allfold::Clock::now() - begin < 2s);
}

TEST_CASE("ranks with other options refuse each other") {
  allfold_test::take_ways("tcp");
  allfold_test::over_processes({2}, [](const allfold::Environment& environment) {
    const auto create = [&] {
      allfold::Communicator<allfold::UcxTransport>::create(
          environment, allfold::MessageOptions{.check_calls = environment.rank == 1});
    };
    allfold_test::expect_contains(EXPECT_THROWS_AS(create(), allfold::Error), {"check_calls"});
  });
}
