// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include <sched.h>
#include <unistd.h>

#include <allfold/base/atomics.hpp>
#include <allfold/base/config.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/function_ref.hpp>

namespace allfold {

/// Where the lanes of one block meet. Whoever comes says whether it is well; all learn whether all were. It has no
/// deadline of its own: a lane comes here as soon as its last wait, which has one, is over.
class LaneBarrier {
 public:
  explicit LaneBarrier(int lanes) noexcept : lanes_(static_cast<std::uint32_t>(lanes)) {}

  bool meet(bool ok) noexcept {
    if (lanes_ == 1) return ok;
    const std::uint32_t turn = load_acquire(&turn_);
    if (!ok) store_relaxed(&failed_, std::uint32_t{1});
    if (fetch_add(&arrived_, std::uint32_t{1}) + 1 == lanes_) {
      store_relaxed(&arrived_, std::uint32_t{0});
      verdict_[turn & 1U] = load_relaxed(&failed_) == 0;
      store_release(&turn_, turn + 1);
    } else {
      while (load_acquire(&turn_) == turn) ::sched_yield();
    }
    return verdict_[turn & 1U];
  }

 private:
  std::uint32_t lanes_;
  std::uint32_t arrived_ = 0;
  std::uint32_t turn_ = 0;
  std::uint32_t failed_ = 0;  // never cleared: after a failure the team does not run again
  bool verdict_[2] = {true, true};
};

/// The lanes of one rank: the caller is lane 0 of block 0, and threads of the team are the others. A team of one lane
/// has no thread and costs a direct call.
class HostTeam {
 public:
  HostTeam(int blocks, int lanes) : blocks_(blocks), lanes_(lanes) {
    for (int b = 0; b < blocks; ++b) barriers_.push_back(std::make_unique<LaneBarrier>(lanes));
    try {
      for (int i = 1; i < blocks * lanes; ++i) threads_.emplace_back([this, i] { serve(i); });
    } catch (const std::system_error& error) {
      const std::size_t started = threads_.size();
      stop();
      throw SystemError("create", error.code().value(),
                        {"could start only ", started, " of ", blocks * lanes - 1,
                         " threads of a rank's lanes; try fewer", " Options::blocks or lanes"});
    }
  }

  HostTeam(const HostTeam&) = delete;
  HostTeam& operator=(const HostTeam&) = delete;

  ~HostTeam() {
    if (::getpid() == process_) {
      stop();
    } else {
      for (std::thread& thread : threads_) thread.detach();  // a forked child has the objects, but not the threads
    }
  }

  int blocks() const noexcept { return blocks_; }
  int lanes() const noexcept { return lanes_; }
  LaneBarrier& barrier(int block) noexcept { return *barriers_[static_cast<std::size_t>(block)]; }

  /// Runs `work(block, lane)` on every lane and returns when all have ended.
  void run(FunctionRef<void(int, int)> work) {
    if (threads_.empty()) return work(0, 0);
    {
      const std::lock_guard lock(mutex_);
      work_ = &work;
      busy_ = threads_.size();
      ++turn_;
    }
    changed_.notify_all();
    work(0, 0);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return busy_ == 0; });
  }

 private:
  void stop() noexcept {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  void serve(int index) {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopping_ || turn_ != seen; });
      if (stopping_) return;
      seen = turn_;
      const FunctionRef<void(int, int)> work = *work_;
      lock.unlock();
      work(index / lanes_, index % lanes_);
      lock.lock();
      if (--busy_ == 0) changed_.notify_all();
    }
  }

  int blocks_;
  int lanes_;
  int process_ = ::getpid();
  std::vector<std::unique_ptr<LaneBarrier>> barriers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  const FunctionRef<void(int, int)>* work_ = nullptr;
  std::uint64_t turn_ = 0;
  std::size_t busy_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;  // last: they use all of the above
};

}  // namespace allfold
