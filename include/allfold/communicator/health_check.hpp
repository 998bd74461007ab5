// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include <allfold/base/config.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>

namespace allfold {

/// Runs `check()` on a thread of its own. A check that has a deadline ends by it and says why; one that hangs all the
/// same is given up a second later, with its thread: what it uses must live as long as `check` does.
/// @throws what the check throws; TimeoutError if it hangs
template <class Check>
void run_health_check(const Where& where, Duration timeout, Check check) {
  struct Report {
    std::mutex mutex;
    std::condition_variable ended;
    std::exception_ptr error;
    bool done = false;
  };
  const auto report = std::make_shared<Report>();
  std::thread thread([report, check = std::move(check)] {
    std::exception_ptr error;
    try {
      check();
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard lock(report->mutex);
    report->error = error;
    report->done = true;
    report->ended.notify_all();
  });
  std::unique_lock lock(report->mutex);
  const bool done = report->ended.wait_for(lock, timeout + std::chrono::seconds(1), [&] { return report->done; });
  lock.unlock();
  if (!done) {
    thread.detach();
    throw TimeoutError(where, -1,
                       {"the health check hangs; expected it to end within ", milliseconds(timeout),
                        " ms; see whether the network lets messages through, and what the transport logs"});
  }
  thread.join();
  if (report->error) std::rethrow_exception(report->error);
}

}  // namespace allfold
