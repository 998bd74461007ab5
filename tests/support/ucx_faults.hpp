// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <allfold/algo/message/all_reduce.hpp>
#include <allfold/algo/message/task.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/function_ref.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/exec/host_reduction.hpp>
#include <allfold/op/operators.hpp>
#include <allfold/spawn.hpp>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

#include <support/ranks.hpp>
#include <support/ucx_ranks.hpp>

namespace allfold_test {

/// An all-reduce of ones, which is under way from its beginning on.
class OnesCall {
 public:
  OnesCall(UcxRank& rank, allfold::AllReduceMotion motion, std::size_t bytes)
      : endpoint_(rank.endpoint("all_reduce")), data_(bytes / sizeof(float), 1.0F) {
    task_ = allfold::message::all_reduce(endpoint_, motion, allfold::host_reduction(reduction_), data_.data(),
                                         data_.data(), data_.size());
    endpoint_.start(task_);
  }
  OnesCall(const OnesCall&) = delete;
  OnesCall& operator=(const OnesCall&) = delete;

  bool succeeded() { return task_.done() && task_.result(); }
  /// Throws if the sum is wrong, and what the call throws.
  void wait(allfold::Deadline deadline) {
    endpoint_.drive(task_, deadline);
    const auto sum = static_cast<float>(endpoint_.world_size());
    EXPECT(data_.front() == sum && data_.back() == sum);
  }

 private:
  allfold::UcxEndpoint endpoint_;
  allfold::Reduction<allfold::Sum, float> reduction_{allfold::sum};
  std::vector<float> data_;
  allfold::Task<bool> task_;
};

/// One process tells another its number.
class ProcessNumber {
 public:
  ProcessNumber() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends) != 0) {
      throw allfold::SystemError("test", errno, {"no pair of sockets"});
    }
    from_.reset(ends[0]);
    to_.reset(ends[1]);
  }
  void tell() const {
    const pid_t mine = ::getpid();
    EXPECT(::write(from_.get(), &mine, sizeof mine) == sizeof mine);
  }
  pid_t hear() const {
    pid_t theirs = 0;
    EXPECT(::read(to_.get(), &theirs, sizeof theirs) == sizeof theirs);
    return theirs;
  }

 private:
  allfold::UniqueFd from_;
  allfold::UniqueFd to_;
};

/// What goes wrong with one rank of a world while all of them call.
struct Fault {
  int world_size = 2;
  int bad = 1;  ///< the rank
  std::size_t bytes = 8;
  allfold::AllReduceMotion motion = allfold::AllReduceMotion::direct;
  allfold::Duration timeout = std::chrono::seconds(4);
  /// From when all ranks have begun until it goes wrong.
  allfold::Duration after = std::chrono::milliseconds(20);
  /// Whether the bad rank is alive and must be told of it as well.
  bool survives = false;
};

using JoinRank = allfold::FunctionRef<allfold::Environment(const allfold::Environment& launched, int life)>;

/// Calls, two at a time, until they fail: both, in time, and every later one, with an `Error` that names the bad rank,
/// or, on that rank itself, another one.
template <class Error>
void call_until_it_ends(UcxRank& rank, const Fault& fault) {
  for (;;) {
    OnesCall large(rank, fault.motion, fault.bytes);
    OnesCall small(rank, fault.motion, 8);
    const allfold::Deadline deadline = allfold::Deadline::after(fault.timeout);
    const auto begin = allfold::Clock::now();
    try {
      large.wait(deadline);
      small.wait(deadline);
      continue;
    } catch (const Error& error) {
      const auto took = allfold::Clock::now() - begin;
      if ((error.source_rank() == fault.bad) == (rank.rank() == fault.bad) ||
          took > fault.timeout + std::chrono::seconds(1)) {
        throw_failure(allfold::concat({error.what(), " (after ", allfold::milliseconds(took), " ms)"}), __FILE__,
                      __LINE__);
      }
    }
    // It may have been over before the other failed.
    if (!small.succeeded()) EXPECT_THROWS_AS(small.wait(deadline), Error);
    EXPECT_THROWS_AS(OnesCall(rank, fault.motion, fault.bytes).wait(deadline), Error);
    return;
  }
}

/// Where a rank is built with the address sanitizer: throws if it has lost memory.
inline void expect_no_leaks() {
#ifdef __SANITIZE_ADDRESS__
  EXPECT(__lsan_do_recoverable_leak_check() == 0);
#endif
}

/// Ranks of `world_size` form a link over `ways` where `join` puts them, and call; `act(pid of the bad rank)` happens
/// to them. Fails the test case unless every other rank ends in time with an `Error` that names the bad one. If
/// `comes_back`, a new process takes its place then, and all of them call again, in the same processes otherwise.
template <class Error>
void strike(const Fault& fault, const char* ways, bool comes_back, JoinRank join, allfold::FunctionRef<void(pid_t)> act,
            const allfold::SourceLocation& at = allfold::SourceLocation::current()) {
  const ProcessNumber number;
  const auto new_life = [&](allfold::Environment environment) {
    environment = join(environment, 1);
    environment.world_size = fault.world_size;
    environment.job += "-again";
    UcxRank rank(environment, ways);
    for (int i = 0; i < 3; ++i) {
      OnesCall(rank, fault.motion, fault.bytes).wait(allfold::Deadline::after(std::chrono::seconds(20)));
    }
  };
  const auto outcomes = allfold::launch_outcomes(
      fault.world_size + 1,
      [&](allfold::Environment launched) {
        if (launched.rank == fault.world_size) {
          const pid_t bad = number.hear();
          ::usleep(static_cast<useconds_t>(std::chrono::duration_cast<std::chrono::microseconds>(fault.after).count()));
          act(bad);
          launched.rank = fault.bad;
          if (comes_back) new_life(launched);
          return;
        }
        allfold::Environment environment = join(launched, 0);
        environment.world_size = fault.world_size;
        allfold::Clock::time_point end;
        {
          UcxRank rank(environment, ways, fault.timeout);
          if (rank.rank() == fault.bad) number.tell();
          call_until_it_ends<Error>(rank, fault);
          end = allfold::Clock::now();
        }
        EXPECT(allfold::Clock::now() - end < std::chrono::seconds(5));
        expect_no_leaks();
        if (comes_back) new_life(launched);
      },
      {.timeout = std::chrono::seconds(30)});
  for (const allfold::Outcome& outcome : outcomes) {
    if (outcome.rank == fault.bad && !fault.survives) continue;
    CHECK_MESSAGE(outcome.ok(), std::string(at.file), ":", at.line, ": ", fault.world_size, " ranks, rank ", fault.bad,
                  " is struck, ", fault.bytes, " bytes over \"", std::string(ways), "\": rank ", outcome.rank, ": ",
                  outcome.error);
  }
}

}  // namespace allfold_test
