// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/task.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/memory/block_pool.hpp>

namespace allfold_test {

/// What a transfer waits for that another thread decides: it may be opened at any time, from any thread.
class Gate;

/// A worker (launch/message_progress.hpp), and a link, without peers: its transfers end as the test says. What only the
/// thread that makes progress may touch is plain memory, so that ThreadSanitizer sees whoever else does.
class ScriptedLink {
 public:
  /// Under way, until over.
  struct Pending {
    allfold::Join* join = nullptr;
    Gate* gate = nullptr;  ///< null: it counts rounds
    int rounds = 0;
    bool over = false;
    bool ok = false;
  };

  ScriptedLink() : messages_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  ScriptedLink(const ScriptedLink&) = delete;
  ScriptedLink& operator=(const ScriptedLink&) = delete;

  bool advance() {
    bool busy = take_messages();
    if (!pending_.empty()) {
      for (Pending* each : pending_) {
        if (each->gate != nullptr || each->over) continue;
        busy = true;
        if (--each->rounds <= 0) end(*each, true);
      }
    }
    return resume() || busy;
  }

  void look(std::uint64_t late) {
    ++looks;
    if (failure_) return;
    if (late != allfold::no_call) {
      fail(std::make_exception_ptr(allfold::TimeoutError("link", 3, {"call ", late, " was late"})));
    } else if (broken_.load()) {
      fail(std::make_exception_ptr(allfold::PeerError("link", 5, {"rank 5 is gone"})));
    }
  }

  template <class Over, class Late>
  void drive(Over&& over, Late&& late) {
    allfold::Clock::time_point look_at = allfold::Clock::now();
    while (!over() && !failure_) {
      advance();
      const allfold::Clock::time_point now = allfold::Clock::now();
      if (now < look_at) continue;
      look_at = now + std::chrono::milliseconds(1);
      look(late(now));
    }
  }

  bool failed() const noexcept { return failed_.load(); }

  allfold::Duration arm(allfold::Duration timeout) const noexcept { return timeout; }
  void pause(int) const noexcept {}
  void sleep(int descriptor, allfold::Duration timeout) noexcept {
    ++sleeps;
    pollfd wakers[] = {{messages_.get(), POLLIN, 0}, {descriptor, POLLIN, 0}};
    if (::poll(wakers, 2, allfold::Deadline::after(timeout).remaining_ms()) == 0) ++slept_out;
  }

  void close() noexcept {
    if (failure_) return;
    fail(std::make_exception_ptr(allfold::UsageError("link", {"the link was closed"})));
  }

  /// For the test, from any thread: a message for the gate's transfers has come.
  void arrive(Gate& gate) {
    {
      const std::lock_guard lock(mutex_);
      arrived_.push_back(&gate);
    }
    const std::uint64_t one = 1;
    static_cast<void>(!::write(messages_.get(), &one, sizeof one));
  }
  /// The next look finds that a peer is gone.
  void break_off() { broken_.store(true); }

  // For endpoints.
  allfold::BlockPool& pool() noexcept { return pool_; }
  void add(Pending& pending) { failure_ ? end(pending, false) : pending_.push_back(&pending); }
  void remove(Pending& pending) noexcept {
    std::erase(pending_, &pending);
    std::erase(ended_, &pending);
  }
  std::exception_ptr failure() const noexcept { return failure_; }
  void fail(std::exception_ptr why) {
    if (failure_) return;
    failure_ = std::move(why);
    failed_.store(true);
    for (Pending* each : pending_) {
      if (!each->over) end(*each, false);
    }
    resume();
  }
  bool is_open(const Gate& gate) const noexcept;

  std::atomic<int> sleeps{0};
  std::atomic<int> slept_out{0};  ///< those that nothing woke
  std::atomic<int> looks{0};

 private:
  void end(Pending& pending, bool ok) {
    pending.over = true;
    pending.ok = ok;
    ended_.push_back(&pending);
  }

  /// Resumes who waited for what has ended.
  bool resume() {
    bool any = false;
    while (!ended_.empty()) {
      Pending& pending = *ended_.back();
      remove(pending);
      any = true;
      if (pending.join != nullptr) std::exchange(pending.join, nullptr)->arrive().resume();
    }
    return any;
  }

  bool take_messages();

  allfold::BlockPool pool_;
  allfold::UniqueFd messages_;
  std::vector<Pending*> pending_;
  std::vector<Pending*> ended_;
  std::exception_ptr failure_;
  std::atomic<bool> failed_{false};
  std::atomic<bool> broken_{false};
  std::mutex mutex_;
  std::vector<Gate*> arrived_;
  std::vector<Gate*> taking_;
};

class Gate {
 public:
  explicit Gate(ScriptedLink& link) noexcept : link_(link) {}
  /// From any thread, once.
  void open() { link_.arrive(*this); }

 private:
  friend class ScriptedLink;
  ScriptedLink& link_;
  bool is_open_ = false;  ///< as the link has seen it
};

inline bool ScriptedLink::is_open(const Gate& gate) const noexcept { return gate.is_open_; }

inline bool ScriptedLink::take_messages() {
  {
    const std::lock_guard lock(mutex_);
    std::swap(arrived_, taking_);
  }
  if (taking_.empty()) return false;
  std::uint64_t count = 0;
  static_cast<void>(!::read(messages_.get(), &count, sizeof count));
  for (Gate* gate : std::exchange(taking_, {})) {
    gate->is_open_ = true;
    for (Pending* each : pending_) {
      if (each->gate == gate && !each->over) end(*each, true);
    }
  }
  return true;
}

/// A transfer of a ScriptedLink.
class ScriptedTransfer {
 public:
  ScriptedTransfer() noexcept = default;
  ScriptedTransfer(ScriptedLink& link, Gate* gate, int rounds)
      : link_(&link), pending_(std::make_unique<ScriptedLink::Pending>()) {
    pending_->gate = gate;
    pending_->rounds = rounds;
    if (gate != nullptr && link.is_open(*gate)) {
      pending_->over = pending_->ok = true;
    } else {
      link.add(*pending_);
    }
  }
  ScriptedTransfer(ScriptedTransfer&&) noexcept = default;
  ScriptedTransfer& operator=(ScriptedTransfer&& other) noexcept {
    std::swap(link_, other.link_);
    std::swap(pending_, other.pending_);
    return *this;
  }
  ~ScriptedTransfer() {
    if (pending_) link_->remove(*pending_);
  }

  bool over() const noexcept { return !pending_ || pending_->over; }
  bool ok() const noexcept { return !pending_ || pending_->ok; }
  void watch(allfold::Join& join) noexcept { pending_->join = &join; }

 private:
  ScriptedLink* link_ = nullptr;
  std::unique_ptr<ScriptedLink::Pending> pending_;
};
static_assert(allfold::transfer<ScriptedTransfer>);

/// One call over a ScriptedLink: as much of an endpoint as launch/message_operation.hpp asks for.
class ScriptedEndpoint {
 public:
  ScriptedEndpoint(ScriptedLink& link, std::uint64_t tag) noexcept : link_(&link), tag_(tag) {}

  /// Over after so many rounds of progress.
  ScriptedTransfer after(int rounds) { return ScriptedTransfer(*link_, nullptr, rounds); }
  /// Over when the gate is open.
  ScriptedTransfer through(Gate& gate) { return ScriptedTransfer(*link_, &gate, 0); }

  allfold::BlockPool& frames() noexcept { return link_->pool(); }
  std::uint64_t tag() const noexcept { return tag_; }
  allfold::Where where() const { return allfold::Where("call"); }
  std::exception_ptr failure() const noexcept { return link_->failure(); }
  void abandon() noexcept {
    link_->fail(std::make_exception_ptr(allfold::PeerError("link", 0, {"this rank gave up"})));
  }
  void mismatch(int source) noexcept {
    link_->fail(std::make_exception_ptr(allfold::MismatchError("link", source, {"a call differs"})));
  }

 private:
  ScriptedLink* link_;
  std::uint64_t tag_;
};

}  // namespace allfold_test
