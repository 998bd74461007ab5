// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <allfold/base/atomics.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/spawn/outcome.hpp>

namespace allfold::detail {

/// What all rank threads of one launch share.
struct RankThreads {
  RankBody body;
  pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;  ///< held until all threads exist: no rank runs without its peers
  bool cancelled = false;                            ///< written under `gate`
  UniqueFd ended_event;                              ///< an eventfd that counts the threads that have ended
};

/// One rank's thread. All of them exist before the first starts, and none moves while one runs.
struct RankThread {
  RankThreads* shared = nullptr;
  const Environment* environment = nullptr;
  pthread_t handle{};
  int ended = 0;  ///< atomic
  bool finished = false;
  std::string error;
};

ALLFOLD_COLD inline void run_rank_thread(RankThread& self) noexcept {
  RankThreads& shared = *self.shared;
  ::pthread_mutex_lock(&shared.gate);
  const bool cancelled = shared.cancelled;
  ::pthread_mutex_unlock(&shared.gate);
  if (!cancelled) {
    try {
      try {
        shared.body(*self.environment);
        self.finished = true;
      } catch (const std::exception& error) {
        self.error = error.what();
        if (self.error.empty()) self.error = "it threw an exception without a message";
      }
    } catch (...) {
      self.error = unknown_exception_text;
    }
  }
  store_release(&self.ended, 1);
  const std::uint64_t one = 1;
  ssize_t written = 0;
  do {
    written = ::write(shared.ended_event.get(), &one, sizeof one);
  } while (written < 0 && errno == EINTR);
}

/// Waits until `running` threads have ended or the deadline passes.
ALLFOLD_COLD inline void wait_for_threads(int event, std::size_t running, Deadline deadline) {
  while (running > 0 && !deadline.expired()) {
    pollfd polled{event, POLLIN, 0};
    if (::poll(&polled, 1, deadline.remaining_ms()) <= 0) continue;
    std::uint64_t count = 0;
    if (::read(event, &count, sizeof count) == static_cast<ssize_t>(sizeof count)) running -= count;
  }
}

/// Runs `body` in one thread per environment. Returns when every thread has ended, late ones too: they use what the
/// caller's stack holds.
ALLFOLD_COLD inline std::vector<Outcome> run_threads(const std::vector<Environment>& environments, RankBody body,
                                                     const LaunchOptions& options) {
  RankThreads shared{.body = body, .ended_event = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))};
  if (!shared.ended_event) throw SystemError("launch", errno, {"eventfd failed"});
  const std::size_t world_size = environments.size();
  std::vector<Outcome> outcomes(world_size);
  std::vector<RankThread> threads(world_size);
  for (std::size_t i = 0; i < world_size; ++i) {
    outcomes[i].rank = environments[i].rank;
    threads[i].shared = &shared;
    threads[i].environment = &environments[i];
  }

  ::pthread_mutex_lock(&shared.gate);
  std::size_t started = 0;
  int failure = 0;
  while (started < world_size && failure == 0) {
    failure = ::pthread_create(
        &threads[started].handle, nullptr,
        [](void* thread) -> void* {
          run_rank_thread(*static_cast<RankThread*>(thread));
          return nullptr;
        },
        &threads[started]);
    if (failure == 0) ++started;
  }
  shared.cancelled = failure != 0;
  ::pthread_mutex_unlock(&shared.gate);

  if (failure == 0) {
    wait_for_threads(shared.ended_event.get(), started, Deadline::after(options.timeout));
    for (std::size_t i = 0; i < started; ++i) {
      outcomes[i].late = load_acquire(&threads[i].ended) == 0;
      if (outcomes[i].late) {
        std::fprintf(stderr,
                     "allfold: launch: rank %zu of %zu is late: it did not finish within %lld ms; waiting on, as a "
                     "thread cannot be killed\n",
                     i, world_size, milliseconds(options.timeout));
      }
    }
  }
  for (std::size_t i = 0; i < started; ++i) ::pthread_join(threads[i].handle, nullptr);
  ::pthread_mutex_destroy(&shared.gate);
  if (failure != 0) throw SystemError("launch", failure, {"could not start ", world_size, " rank threads"});

  for (std::size_t i = 0; i < world_size; ++i) {
    outcomes[i].finished = threads[i].finished;
    outcomes[i].error = std::move(threads[i].error);
    if (!outcomes[i].late) continue;
    const std::string late = late_text(options.timeout, "");
    outcomes[i].error = outcomes[i].error.empty() ? late : concat({late, "; then: ", outcomes[i].error});
  }
  return outcomes;
}

}  // namespace allfold::detail
