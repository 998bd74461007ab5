// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/allfold.hpp>

#include <support/ranks.hpp>

using namespace std::chrono_literals;
using Comm = allfold::Communicator<>;

namespace {

/// Rank 1 makes another call than the others: every rank must get a MismatchError that shows both sides, long before
/// the deadline, and so again at the next call.
template <class Most, class One>
void check_mismatch(std::initializer_list<const char*> parts, Most&& most, One&& one) {
  allfold_test::over_ranks({2, 3}, [&](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment, allfold::Options{.timeout = 60s});
    const auto begin = std::chrono::steady_clock::now();
    const std::string message = EXPECT_THROWS_AS(comm.rank() == 1 ? one(comm) : most(comm), allfold::MismatchError);
    EXPECT(std::chrono::steady_clock::now() - begin < 30s);
    allfold_test::expect_contains(message, parts);
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.barrier(), allfold::Error), parts);
    EXPECT_THROWS_AS(comm.status(), allfold::Error);
  });
}

}  // namespace

TEST_CASE("another count") {
  check_mismatch(
      {"all_reduce of 4 float", "all_reduce of 5 float", "rank 1"},
      [](Comm& comm) {
        std::vector<float> x(4);
        comm.all_reduce(x, allfold::sum);
      },
      [](Comm& comm) {
        std::vector<float> x(5);
        comm.all_reduce(x, allfold::sum);
      });
}

TEST_CASE("another type") {
  check_mismatch(
      {"4 float", "4 int32", "rank 1"},
      [](Comm& comm) {
        std::vector<float> x(4);
        comm.all_reduce(x, allfold::sum);
      },
      [](Comm& comm) {
        std::vector<std::int32_t> x(4);
        comm.all_reduce(x, allfold::sum);
      });
}

TEST_CASE("another operator") {
  check_mismatch(
      {"sum", "max", "rank 1"},
      [](Comm& comm) {
        std::vector<float> x(4);
        comm.all_reduce(x, allfold::sum);
      },
      [](Comm& comm) {
        std::vector<float> x(4);
        comm.all_reduce(x, allfold::max);
      });
}

TEST_CASE("another factor of premul_sum") {
  check_mismatch(
      {"premul_sum", "rank 1", "with another operator or type of that name"},
      [](Comm& comm) {
        std::vector<float> x(4);
        comm.all_reduce(x, allfold::premul_sum(2.0F));
      },
      [](Comm& comm) {
        std::vector<float> x(4);
        comm.all_reduce(x, allfold::premul_sum(3.0F));
      });
}

TEST_CASE("another operation") {
  check_mismatch(
      {"all_reduce of 4 float", "barrier", "rank 1"},
      [](Comm& comm) {
        std::vector<float> x(4);
        comm.all_reduce(x, allfold::sum);
      },
      [](Comm& comm) { comm.barrier(); });
}

TEST_CASE("a call of all ranks against a barrier of a group") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    auto comm = Comm::create(environment);
    if (environment.rank > 1) return;
    const std::string text = environment.rank == 0 ? EXPECT_THROWS_AS(comm.barrier(), allfold::MismatchError)
                                                   : EXPECT_THROWS_AS(comm.barrier({0, 1}), allfold::MismatchError);
    allfold_test::expect_contains(text, {"rank 1 calls barrier of ranks {0, 1}", "rank 0 calls barrier"});
  });
}

TEST_CASE("another algorithm") {
  check_mismatch(
      {"one_shot", "two_shot", "rank 1"},
      [](Comm& comm) {
        std::vector<float> x(4);
        comm.all_reduce(x, allfold::sum, {.algorithm = allfold::Algorithm::one_shot});
      },
      [](Comm& comm) {
        std::vector<float> x(4);
        comm.all_reduce(x, allfold::sum, {.algorithm = allfold::Algorithm::two_shot});
      });
}

TEST_CASE("large calls mismatch too") {
  check_mismatch(
      {"all_reduce of 4000000 float", "all_reduce of 4000001 float", "rank 1"},
      [](Comm& comm) {
        std::vector<float> x(4000000);
        comm.all_reduce(x, allfold::sum);
      },
      [](Comm& comm) {
        std::vector<float> x(4000001);
        comm.all_reduce(x, allfold::sum);
      });
}

TEST_CASE("symmetric memory on one side") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    auto symmetric = comm.allocate<float>(4);
    std::vector<float> own(4);
    const std::string message =
        EXPECT_THROWS_AS(comm.all_reduce(comm.rank() == 1 ? std::span<float>(own) : symmetric.span(), allfold::sum),
                         allfold::MismatchError);
    allfold_test::expect_contains(message, {"private memory", "symmetric allocation", "rank 1"});
  });
}
