// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <exception>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/base/concat.hpp>
#include <allfold/base/function_ref.hpp>
#include <allfold/base/source_location.hpp>
#include <allfold/spawn.hpp>

/// For code that runs in a rank, where doctest's macros do not work: a failure is an exception, which fails the rank,
/// which over_ranks() reports.
#define EXPECT(...) \
  ((__VA_ARGS__) ? void() : ::allfold_test::throw_failure(#__VA_ARGS__ " is false", __FILE__, __LINE__))

/// Evaluates to the message of the exception that `expression` throws.
#define EXPECT_THROWS_AS(expression, Type) \
  ::allfold_test::thrown_message<Type>([&] { static_cast<void>(expression); }, #expression, #Type, __FILE__, __LINE__)

namespace allfold_test {

[[noreturn]] ALLFOLD_COLD inline void throw_failure(const std::string& what, const char* file, int line) {
  throw std::runtime_error(allfold::concat({file, ":", line, ": ", what}));
}

/// Throws unless `text` has all `parts`.
ALLFOLD_COLD inline void expect_contains(const std::string& text, std::initializer_list<const char*> parts,
                                         const allfold::SourceLocation& at = allfold::SourceLocation::current()) {
  for (const char* const part : parts) {
    if (text.find(part) == std::string::npos) {
      throw_failure(allfold::concat({"\"", text, "\" does not contain \"", part, "\""}), at.file, at.line);
    }
  }
}

template <class Type>
std::string thrown_message(allfold::FunctionRef<void()> body, const char* expression, const char* type,
                           const char* file, int line) {
  try {
    body();
  } catch (const Type& error) {
    return error.what();
  } catch (const std::exception& error) {
    throw_failure(allfold::concat({expression, " did not throw ", type, " but: ", error.what()}), file, line);
  }
  throw_failure(allfold::concat({expression, " did not throw ", type}), file, line);
}

using RankBody = allfold::FunctionRef<void(const allfold::Environment&)>;

inline constexpr std::initializer_list<int> every_world_size = {1, 2, 3, 4, 8};

/// Generous: ranks outnumber cores, and sanitizers are slow. The library's own deadlines must end a hang before.
inline constexpr allfold::Duration rank_timeout = std::chrono::seconds(100);

/// Runs `body` on so many ranks of that kind, and fails the test case with what each bad rank says.
ALLFOLD_COLD inline bool run_on_ranks(int world_size, allfold::Ranks ranks, RankBody body, allfold::Duration timeout,
                                      const allfold::SourceLocation& at) {
  bool all_ok = true;
  for (const allfold::Outcome& outcome :
       allfold::launch_outcomes(world_size, body, {.ranks = ranks, .timeout = timeout})) {
    const char* const kind = ranks == allfold::Ranks::processes ? " processes" : " threads";
    const std::string text = allfold::concat({at.file, ":", at.line, ": ", outcome.late ? "LATE rank " : "rank ",
                                              outcome.rank, " of ", world_size, kind, ": ", outcome.error});
    CHECK_MESSAGE(outcome.ok(), text);
    all_ok = all_ok && outcome.ok();
  }
  return all_ok;
}

/// Runs `body` in one child process per rank, for each world size; stops at the first that fails.
ALLFOLD_COLD inline void over_processes(std::initializer_list<int> world_sizes, RankBody body,
                                        allfold::Duration timeout = rank_timeout,
                                        const allfold::SourceLocation& at = allfold::SourceLocation::current()) {
  for (const int world_size : world_sizes) {
    if (!run_on_ranks(world_size, allfold::Ranks::processes, body, timeout, at)) return;
  }
}

/// Runs `body` in one thread per rank, for each world size; stops at the first that fails.
ALLFOLD_COLD inline void over_threads(std::initializer_list<int> world_sizes, RankBody body,
                                      allfold::Duration timeout = rank_timeout,
                                      const allfold::SourceLocation& at = allfold::SourceLocation::current()) {
  for (const int world_size : world_sizes) {
    if (!run_on_ranks(world_size, allfold::Ranks::threads, body, timeout, at)) return;
  }
}

/// Both. Processes go first: they are forked, which wants a process without threads.
ALLFOLD_COLD inline void over_ranks(std::initializer_list<int> world_sizes, RankBody body,
                                    allfold::Duration timeout = rank_timeout,
                                    const allfold::SourceLocation& at = allfold::SourceLocation::current()) {
  over_processes(world_sizes, body, timeout, at);
  over_threads(world_sizes, body, timeout, at);
}

}  // namespace allfold_test
