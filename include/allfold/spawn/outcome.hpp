// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include <allfold/base/concat.hpp>
#include <allfold/base/config.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/base/environment.hpp>
#include <allfold/base/function_ref.hpp>

namespace allfold {

/// What a local rank is: a child process (isolated, can be killed), or a thread of this process (cheap, visible to
/// ThreadSanitizer, shares memory).
enum class Ranks { processes, threads };

/// How one local rank ended.
struct Outcome {
  int rank = 0;
  /// Its function returned.
  bool finished = false;
  /// The signal that killed its process, or 0.
  int signal = 0;
  /// It ran past the launch's timeout. A process is killed then; a thread is waited for, and may still finish.
  bool late = false;
  /// It was killed because another rank had failed (LaunchOptions::stop_others_on_failure).
  bool stopped = false;
  /// What went wrong, in words; empty exactly if nothing did.
  std::string error{};

  bool ok() const noexcept { return finished && signal == 0 && !late && error.empty(); }
};

struct LaunchOptions {
  Ranks ranks = Ranks::processes;
  /// How long all ranks together may take.
  Duration timeout = std::chrono::seconds(60);
  /// Kill the other processes as soon as one rank fails. Otherwise they run on until they end by themselves (the
  /// library's own deadlines see to that) or `timeout` passes. Threads cannot be killed: no effect on them.
  bool stop_others_on_failure = false;
  /// Environment::meeting_directory of every rank; empty if no FileStore is used.
  std::string directory{};
};

namespace detail {

/// What one rank runs.
using RankBody = FunctionRef<void(const Environment&)>;

/// The text of a late rank.
ALLFOLD_COLD inline std::string late_text(Duration timeout, const char* consequence) {
  return concat({"it did not finish within ", milliseconds(timeout), " ms", consequence});
}

/// What to say of an exception that is no std::exception.
inline constexpr const char* unknown_exception_text = "it threw something that is no std::exception";

}  // namespace detail
}  // namespace allfold
