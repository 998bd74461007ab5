// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <csignal>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <allfold/algo/message/all_gather.hpp>
#include <allfold/algo/message/all_reduce.hpp>
#include <allfold/exec/host_reduction.hpp>
#include <allfold/op/operators.hpp>

#include <support/ranks.hpp>
#include <support/ucx_ranks.hpp>

using namespace std::chrono_literals;
using allfold::UcxEndpoint;
using allfold_test::UcxRank;
namespace message = allfold::message;

namespace {

void all_reduce(UcxRank& rank, allfold::AllReduceMotion motion, std::size_t count) {
  const allfold::Reduction<allfold::Sum, float> reduction{allfold::sum};
  const allfold::MessageReduction erased = allfold::host_reduction(reduction);
  std::vector<float> data(count, 1.0F);
  rank.run("all_reduce",
           [&](UcxEndpoint& e) { return message::all_reduce(e, motion, erased, data.data(), data.data(), count); });
}

/// One of `world_size` ranks, the last, ends by `end` in the middle of a series of calls; the others must throw
/// `Error`, which names it, within `timeout` and a second.
template <class Error, class End>
void one_ends(int world_size, const char* ways, allfold::AllReduceMotion motion, std::size_t count,
              allfold::Duration timeout, End&& end) {
  // Who tell the rank that lives on in a stop to end.
  const auto outcomes = allfold::launch_outcomes(
      world_size,
      [&](const allfold::Environment& environment) {
        UcxRank rank(environment, ways, timeout);
        const int bad = world_size - 1;
        for (int i = 0; i < 3; ++i) all_reduce(rank, motion, count);
        if (rank.rank() == bad) end();
        const auto begin = allfold::Clock::now();
        try {
          for (;;) all_reduce(rank, motion, count);
        } catch (const Error& error) {
          const auto took = allfold::Clock::now() - begin;
          if (error.source_rank() != bad || took > timeout + 1s) {
            throw std::runtime_error(allfold::concat(
                {error.what(), " (after ", allfold::milliseconds(took), " ms, rank ", error.source_rank(), ")"}));
          }
          EXPECT(EXPECT_THROWS_AS(all_reduce(rank, motion, count), Error).find("all_reduce") != std::string::npos);
        }
      },
      {.timeout = 15s});
  for (const allfold::Outcome& outcome : outcomes) {
    if (outcome.rank != world_size - 1) {
      CHECK_MESSAGE(outcome.ok(), world_size, " ranks over \"", std::string(ways), "\": rank ", outcome.rank, ": ",
                    outcome.error);
    }
  }
}

constexpr allfold::AllReduceMotion few_motions[] = {allfold::AllReduceMotion::gathered,
                                                    allfold::AllReduceMotion::direct};

}  // namespace

TEST_CASE("a killed rank ends the others' calls, which name it") {
  for (const char* ways : {"tcp", ""}) {
    for (const int world_size : {2, 3, 4}) {
      for (const std::size_t count : {std::size_t{2}, std::size_t{300000}}) {
        one_ends<allfold::PeerError>(world_size, ways, few_motions[count % 3 == 0], count, 4s,
                                     [] { ::raise(SIGKILL); });
      }
    }
  }
}

TEST_CASE("a stopped rank ends the others' calls at the deadline, which name it") {
  for (const char* ways : {"tcp", ""}) {
    for (const int world_size : {2, 4}) {
      // It is killed a while later, for it would be waited for.
      one_ends<allfold::TimeoutError>(world_size, ways, few_motions[world_size / 4], world_size == 2 ? 2 : 300000,
                                      500ms, [] {
                                        const int stopped = ::getpid();
                                        if (::fork() == 0) {
                                          ::usleep(1700000);
                                          ::kill(stopped, SIGKILL);
                                          ::_exit(0);
                                        }
                                        ::raise(SIGSTOP);
                                      });
    }
  }
}

TEST_CASE("a rank that leaves while others call is named") {
  for (const char* ways : {"tcp", ""}) {
    const auto outcomes =
        allfold::launch_outcomes(3,
                                 [&](const allfold::Environment& environment) {
                                   UcxRank rank(environment, ways, 5s);
                                   if (rank.rank() == 1) return;
                                   const std::string what = EXPECT_THROWS_AS(
                                       all_reduce(rank, allfold::AllReduceMotion::gathered, 4), allfold::PeerError);
                                   allfold_test::expect_contains(what, {"rank 1 has left", "all_reduce"});
                                 },
                                 {.timeout = 15s});
    for (const allfold::Outcome& outcome : outcomes) CHECK_MESSAGE(outcome.ok(), outcome.rank, ": ", outcome.error);
  }
}

TEST_CASE("ranks whose counts differ are told so") {
  allfold_test::over_processes({2}, [](const allfold::Environment& environment) {
    UcxRank rank(environment, "tcp", 5s);
    const std::string what = EXPECT_THROWS_AS(
        all_reduce(rank, allfold::AllReduceMotion::gathered, rank.rank() == 0 ? 4 : 5), allfold::MismatchError);
    allfold_test::expect_contains(what, {"sent a message of", "give both ranks the same type and count", "all_reduce"});
  });
}

TEST_CASE("ranks may go in any order, at once after their last call") {
  for (const char* ways : {"tcp", ""}) {
    allfold_test::over_processes({2, 4}, [ways](const allfold::Environment& environment) {
      UcxRank rank(environment, ways);
      all_reduce(rank, allfold::AllReduceMotion::direct, 70000);
      if (rank.rank() == 0) ::usleep(300000);
    });
  }
}
