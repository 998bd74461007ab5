// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/function_ref.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/launch/message_operation.hpp>
#include <allfold/launch/message_progress.hpp>

namespace allfold {

/// Progress by whoever waits, and by a thread while nobody does. The thread sleeps while nothing moves; its name is
/// "allfold". Operations may be begun and waited for by any thread; who makes progress, and tells listeners, cannot
/// wait meanwhile. It is made by make_progressing() if listeners may let go of it.
template <class Worker>
class ThreadProgress final : public MessageProgress {
 public:
  static constexpr bool has_thread = true;

  /// @throws SystemError without a thread or a descriptor for it
  explicit ThreadProgress(Worker& worker) : worker_(worker), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!wake_) throw SystemError("create", errno, {"no descriptor to wake the progress thread with"});
    try {
      thread_ = std::thread([this] {
        go_on();
        const auto last = std::move(owner_);  // with it *this ends
      });
      ::pthread_setname_np(thread_.native_handle(), "allfold");
    } catch (const std::system_error& error) {
      throw SystemError("create", error.code().value(), {"the progress thread could not be started"});
    }
  }
  ThreadProgress(const ThreadProgress&) = delete;
  ThreadProgress& operator=(const ThreadProgress&) = delete;
  ~ThreadProgress() { close(); }

  void post(OperationRef operation, Duration timeout, bool awaited) override {
    {
      const std::lock_guard lock(mutex_);
      if (!closed_) {
        posted_.push_back({operation.get(), timeout});
        static_cast<void>(operation.give());
        return has_posted(awaited);
      }
    }
    MessageOperations::refuse(*operation.give());
  }

  bool wait(MessageOperation& operation, Deadline until) override {
    if (operation.over()) return true;
    if (!may_wait()) {
      throw UsageError("wait",
                       {"the progress thread, on which coroutines go on, would wait for itself; expected another "
                        "thread; use co_await there"});
    }
    std::unique_lock lock(mutex_);
    ++waiters_;
    eager_.fetch_add(1, std::memory_order_relaxed);
    over_.wait_until(lock, until.at(), [&] { return operation.over() || !taken_; });
    eager_.fetch_sub(1, std::memory_order_relaxed);
    if (!operation.over() && !taken_ && !stops()) {
      make_progress_until(operation, until, lock);
      if (!wanted() && !nothing_left()) call_thread();
    }
    const bool over = over_.wait_until(lock, until.at(), [&] { return operation.over(); });
    if (--waiters_ == 0) over_.notify_all();  // close() lets them go first
    return over;
  }

  void poll() override {}

  bool may_wait() const noexcept override {
    return std::this_thread::get_id() != progressing_.load(std::memory_order_relaxed);
  }

  /// Runs `body` where progress is made, and concludes what has ended by it.
  /// @throws what it throws
  void run(FunctionRef<void()> body) {
    Command command{body};
    if (may_wait()) {
      std::unique_lock lock(mutex_);
      if (closed_) {
        lock.unlock();
        return body();
      }
      commands_.push_back(&command);
      has_posted(false);
      over_.wait(lock, [&] { return command.done; });
    } else {
      obey(command);
    }
    if (command.error) std::rethrow_exception(command.error);
  }

  /// See make_progressing().
  template <class Owner>
  void let_go(std::unique_ptr<Owner> owner) noexcept {
    if (!is_own_thread()) return;
    owner_ = {owner.release(), [](void* last) { delete static_cast<Owner*>(last); }};
    stop_.store(true, std::memory_order_release);
  }

  /// Ends the thread. What is under way never ends: whoever waits is told, and later operations are refused.
  void close() noexcept {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);  // the thread is not between its last look at this and its sleep
      stop_.store(true, std::memory_order_release);
      call_thread();
    }
    is_own_thread() ? thread_.detach() : thread_.join();
    std::unique_lock lock(mutex_);
    over_.wait(lock, [this] { return !taken_; });
    {
      const Turn turn(*this, lock);
      do {
        begin_posted();
        operations_.conclude_ended();
        operations_.abandon();
      } while (!refuse_from_now_on());  // listeners begin operations when theirs end
    }
    over_.notify_all();
    over_.wait(lock, [this] { return waiters_ == 0; });
  }

 private:
  struct Posted {
    MessageOperation* operation;
    Duration timeout;
  };
  struct Command {
    FunctionRef<void()> body;
    std::exception_ptr error{};
    bool done = false;
  };

  /// Who has it makes progress. The mutex is free meanwhile.
  class Turn {
   public:
    Turn(ThreadProgress& progress, std::unique_lock<std::mutex>& lock) noexcept : progress_(progress), lock_(lock) {
      progress_.taken_ = true;
      progress_.called_ = false;
      ++progress_.turns_;
      progress_.progressing_.store(std::this_thread::get_id(), std::memory_order_relaxed);
      lock_.unlock();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() {
      lock_.lock();
      progress_.progressing_.store({}, std::memory_order_relaxed);
      progress_.taken_ = false;
      if (progress_.wanted() || progress_.stops()) progress_.over_.notify_all();
    }

   private:
    ThreadProgress& progress_;
    std::unique_lock<std::mutex>& lock_;
  };

  /// How long the thread sleeps at most while something is under way, and while nothing is.
  static constexpr std::chrono::milliseconds nap{10};
  static constexpr std::chrono::milliseconds long_nap{500};
  /// Rounds without a message before it sleeps.
  static constexpr int patience = 50;
  /// How long who waits makes progress by himself after the last message: then the thread does, and he sleeps.
  static constexpr std::chrono::milliseconds eagerness{1};
  /// Those who wait in turn need no thread in between.
  static constexpr std::chrono::milliseconds respite{1};

  bool is_own_thread() const noexcept { return std::this_thread::get_id() == thread_.get_id(); }
  bool stops() const noexcept { return stop_.load(std::memory_order_acquire); }
  /// Whether somebody who waits would make progress.
  bool wanted() const noexcept { return eager_.load(std::memory_order_relaxed) != 0; }

  // Under the mutex.
  bool nothing_posted() const noexcept { return posted_.empty() && commands_.empty(); }
  bool nothing_left() const noexcept { return operations_.empty() && nothing_posted(); }
  void has_posted(bool awaited) noexcept {
    has_posted_.store(true, std::memory_order_relaxed);
    if (!taken_ && !awaited) call_thread();
  }
  void call_thread() noexcept {
    called_ = true;
    if (!asleep_) return called_for_.notify_one();
    const std::uint64_t one = 1;
    static_cast<void>(!::write(wake_.get(), &one, sizeof one));
  }

  bool begin_posted() {
    if (!has_posted_.load(std::memory_order_relaxed)) return false;
    std::vector<Command*> commands;
    {
      const std::lock_guard lock(mutex_);
      std::swap(posted_, beginning_);
      std::swap(commands_, commands);
      has_posted_.store(false, std::memory_order_relaxed);
    }
    for (const Posted& each : beginning_) operations_.begin(*each.operation, each.timeout);
    beginning_.clear();
    for (Command* const command : commands) obey(*command);
    return true;
  }

  ALLFOLD_COLD void obey(Command& command) {
    try {
      command.body();
    } catch (...) {
      command.error = std::current_exception();
    }
    conclude_ended();
    const std::lock_guard lock(mutex_);
    command.done = true;
    over_.notify_all();
  }

  bool refuse_from_now_on() {
    const std::lock_guard lock(mutex_);
    return closed_ = nothing_posted();
  }

  bool conclude_ended() {
    if (!operations_.conclude_ended()) return false;
    // Whoever is about to wait has either seen that its operation is over, or waits already.
    { const std::lock_guard lock(mutex_); }
    over_.notify_all();
    return true;
  }

  /// Whether anything happened.
  bool round() {
    bool busy = begin_posted();
    busy = worker_.advance() || busy;
    return conclude_ended() || busy;
  }

  void look(Clock::time_point now) {
    if (now < look_at_) return;
    look_at_ = now + look_interval;
    worker_.look(operations_.late(now));
    conclude_ended();
  }

  /// By who waits for the operation: until it is over, or for a while.
  void make_progress_until(const MessageOperation& operation, Deadline until, std::unique_lock<std::mutex>& lock) {
    const Turn turn(*this, lock);
    Clock::time_point enough{};  // no clock for what is over at once
    int idle = 0;
    for (unsigned rounds = 1; !operation.over() && !stops(); ++rounds) {
      idle = round() ? 0 : idle + 1;
      worker_.pause(idle);
      if (rounds % 32 != 0) continue;
      const Clock::time_point now = Clock::now();
      look(now);
      if (idle < 32 || enough == Clock::time_point{}) enough = now + eagerness;
      if (now >= enough || now >= until.at()) return;
    }
  }

  /// By the thread: until nothing moves, or somebody who waits wants to. How long to sleep then.
  Duration make_progress(std::unique_lock<std::mutex>& lock, int most_idle) {
    const Turn turn(*this, lock);
    int idle = patience - most_idle;
    for (unsigned rounds = 1; !wanted() && !stops(); ++rounds) {
      idle = round() ? 0 : idle + 1;
      if (rounds % 32 == 0 || idle == patience) look(Clock::now());
      if (idle < patience) continue;
      const Duration rest = worker_.arm(operations_.empty() ? long_nap : nap);
      if (rest > Duration::zero()) return rest;
      idle = patience - 2;
    }
    return {};
  }

  void go_on() {
    std::unique_lock lock(mutex_);
    int most_idle = patience;
    while (!stops()) {
      const unsigned before = turns_;
      const auto needed = [&] { return stops() || (called_ && !taken_ && !wanted()); };
      const bool quiet = !called_for_.wait_for(lock, respite, needed) && turns_ == before && !taken_ && !wanted();
      if (!quiet && !needed()) continue;
      while (!taken_ && !wanted() && !stops()) {
        const Duration rest = make_progress(lock, most_idle);
        most_idle = 2;
        if (rest == Duration::zero() || wanted() || stops() || !nothing_posted()) continue;
        if (!sleep(rest, lock)) break;
      }
    }
  }

  /// Whether nobody who waits has made progress meanwhile.
  bool sleep(Duration rest, std::unique_lock<std::mutex>& lock) noexcept {
    const unsigned before = turns_;
    asleep_ = true;
    lock.unlock();
    worker_.sleep(wake_.get(), rest);
    lock.lock();
    asleep_ = false;
    std::uint64_t count = 0;
    static_cast<void>(!::read(wake_.get(), &count, sizeof count));
    return turns_ == before || called_;
  }

  Worker& worker_;
  UniqueFd wake_;

  // Of whose turn it is.
  MessageOperations operations_;
  std::vector<Posted> beginning_;
  Clock::time_point look_at_{};

  std::mutex mutex_;
  std::condition_variable over_;        ///< an operation is over, or nobody makes progress
  std::condition_variable called_for_;  ///< the thread is
  std::vector<Posted> posted_;
  std::vector<Command*> commands_;
  int waiters_ = 0;
  unsigned turns_ = 0;
  bool taken_ = false;   ///< somebody makes progress
  bool called_ = false;  ///< the thread shall
  bool asleep_ = false;  ///< the thread is
  bool closed_ = false;
  std::atomic<bool> has_posted_{false};
  std::atomic<int> eager_{0};
  std::atomic<std::thread::id> progressing_{};
  std::atomic<bool> stop_{false};
  std::unique_ptr<void, void (*)(void*)> owner_{nullptr, nullptr};  ///< of the thread, to be let go of at its end
  std::thread thread_;
};

}  // namespace allfold
