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

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/function_ref.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/launch/message_operation.hpp>

namespace allfold {}  // namespace allfold

/// What cudaStream_t points to.
struct CUstream_st;

namespace allfold {

/// Lets streams of a GPU wait for operations.
class StreamGates {
 public:
  /// What is enqueued on the stream next waits until the operation is over, well or not.
  virtual void close_until_over(const Where& where, OperationRef operation, CUstream_st* stream) = 0;

 protected:
  ~StreamGates() = default;
};

/// Who makes progress for a rank's operations, as Work sees it.
class MessageProgress {
 public:
  MessageProgress(const MessageProgress&) = delete;
  MessageProgress& operator=(const MessageProgress&) = delete;

  /// Begins an operation; it goes on until it is over. A call that cannot begin is over with an error.
  virtual void post(OperationRef operation, Deadline deadline) = 0;
  /// Returns when it is over, or at `until`: whether it is over.
  virtual bool wait(MessageOperation& operation, Deadline until) = 0;
  /// Makes progress if that is for the caller to do; never waits.
  virtual void poll() = 0;
  /// Whether this thread may wait: the one on which coroutines go on would wait for itself.
  virtual bool may_wait() const noexcept = 0;

  /// Null where operations have no memory of GPUs.
  StreamGates* gates() const noexcept { return gates_; }
  void set_gates(StreamGates* gates) noexcept { gates_ = gates; }

 protected:
  /// How often the peers are looked at while something is under way.
  static constexpr std::chrono::milliseconds look_interval{1};

  MessageProgress() = default;
  ~MessageProgress() = default;

 private:
  StreamGates* gates_ = nullptr;
};

/// Progress by the caller: whoever waits, polls or begins an operation moves all of them on. No thread, and the shortest
/// way; between calls nothing moves. For one thread at a time.
///
/// A Worker moves messages for one rank:
///   advance()                      lets messages move, and resumes who can go on: whether anything happened
///   look(late)                     looks at the peers, once in a while. `late`: the tag of a call whose deadline has
///                                  passed, or no_call. After a failure all who waited have been resumed
///   drive(over, late)              does both until over(); `late(now)` as above
///   sleep(descriptor, timeout)     until a message comes, the descriptor can be read, or the timeout; may end early
template <class Worker>
class CallerProgress final : public MessageProgress {
 public:
  static constexpr bool has_thread = false;

  explicit CallerProgress(Worker& worker) noexcept : worker_(worker) {}
  CallerProgress(const CallerProgress&) = delete;
  CallerProgress& operator=(const CallerProgress&) = delete;
  ~CallerProgress() { close(); }

  void post(OperationRef operation, Deadline deadline) override {
    MessageOperation& begun = *operation;
    begun.retain();
    operations_.begin(begun, deadline.at());
    operations_.conclude_ended();
  }

  bool wait(MessageOperation& operation, Deadline until) override {
    bool enough = false;
    worker_.drive(
        [&] {
          operations_.conclude_ended();
          return operation.over() || enough;
        },
        [&](Clock::time_point now) {
          enough = now >= until.at();
          return operations_.late(now);
        });
    operations_.conclude_ended();
    return operation.over();
  }

  void poll() override {
    worker_.advance();
    operations_.conclude_ended();
    if (const Clock::time_point now = Clock::now(); now >= look_at_) {
      look_at_ = now + look_interval;
      worker_.look(operations_.late(now));
      operations_.conclude_ended();
    }
  }

  bool may_wait() const noexcept override { return true; }

  /// See make_progressing().
  template <class Owner>
  void let_go(std::unique_ptr<Owner>) noexcept {}

  /// Runs `body` where progress is made, and concludes what has ended by it.
  void run(FunctionRef<void()> body) {
    body();
    operations_.conclude_ended();
  }

  /// What is under way never ends: whoever waits is told.
  void close() noexcept {
    operations_.conclude_ended();
    operations_.abandon();
  }

 private:
  Worker& worker_;
  MessageOperations operations_;
  Clock::time_point look_at_{};  ///< of poll
};

/// Progress by a thread, which sleeps while nothing moves. Its name is "allfold". Operations may be begun and waited for
/// by any thread; the progress thread itself, on which listeners are told, cannot wait, and is made by make_progressing()
/// if they may let go of it.
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
    } catch (const std::system_error& error) {
      throw SystemError("create", error.code().value(), {"the progress thread could not be started"});
    }
  }
  ThreadProgress(const ThreadProgress&) = delete;
  ThreadProgress& operator=(const ThreadProgress&) = delete;
  ~ThreadProgress() { close(); }

  void post(OperationRef operation, Deadline deadline) override {
    bool refused = false;
    {
      const std::lock_guard lock(mutex_);
      refused = closed_;
      if (!refused) posted_.push_back({operation.get(), deadline.at()});
      operation->retain();
    }
    refused ? MessageOperations::refuse(*operation) : wake();
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
    const bool over = over_.wait_until(lock, until.at(), [&] { return operation.over(); });
    if (--waiters_ == 0) over_.notify_all();  // close() lets them go first
    return over;
  }

  void poll() override {}

  bool may_wait() const noexcept override {
    return std::this_thread::get_id() != progressing_.load(std::memory_order_relaxed);
  }

  /// Runs `body` where progress is made, and concludes what has ended by it. @throws what it throws
  void run(FunctionRef<void()> body) {
    Command command{body};
    if (may_wait()) {
      std::unique_lock lock(mutex_);
      const bool closed = closed_;
      if (!closed) commands_.push_back(&command);
      lock.unlock();
      if (closed) return body();
      wake();
      lock.lock();
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
    }
    wake();
    is_own_thread() ? thread_.detach() : thread_.join();
    progressing_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    do {
      begin_posted();
      operations_.conclude_ended();
      operations_.abandon();
    } while (!refuse_from_now_on());  // listeners begin operations when theirs end
    std::unique_lock lock(mutex_);
    over_.notify_all();
    over_.wait(lock, [this] { return waiters_ == 0; });
    progressing_.store({}, std::memory_order_relaxed);
  }

 private:
  struct Posted {
    MessageOperation* operation;
    Clock::time_point deadline;
  };
  struct Command {
    FunctionRef<void()> body;
    std::exception_ptr error{};
    bool done = false;
  };

  /// How long it sleeps at most while something is under way, and while nothing is.
  static constexpr std::chrono::milliseconds nap{10};
  static constexpr std::chrono::milliseconds long_nap{500};
  /// Rounds without a message before it sleeps.
  static constexpr int patience = 50;

  bool is_own_thread() const noexcept { return std::this_thread::get_id() == thread_.get_id(); }

  void wake() noexcept {
    if (!asleep_.load(std::memory_order_seq_cst)) return;
    const std::uint64_t one = 1;
    static_cast<void>(!::write(wake_.get(), &one, sizeof one));
  }

  bool begin_posted() {
    std::vector<Command*> commands;
    {
      const std::lock_guard lock(mutex_);
      std::swap(posted_, beginning_);
      std::swap(commands_, commands);
    }
    for (const Posted& each : beginning_) operations_.begin(*each.operation, each.deadline);
    const bool any = !beginning_.empty() || !commands.empty();
    beginning_.clear();
    for (Command* const command : commands) obey(*command);
    return any;
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
    return closed_ = posted_.empty() && commands_.empty();
  }

  bool conclude_ended() {
    if (!operations_.conclude_ended()) return false;
    // Whoever is about to wait has either seen that its operation is over, or waits already.
    { const std::lock_guard lock(mutex_); }
    over_.notify_all();
    return true;
  }

  void go_on() {
    ::pthread_setname_np(::pthread_self(), "allfold");
    progressing_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    Clock::time_point look_at = Clock::now() + look_interval;
    int idle = 0;
    for (unsigned round = 1; !stop_.load(std::memory_order_acquire); ++round) {
      bool busy = begin_posted();
      busy = worker_.advance() || busy;
      busy = conclude_ended() || busy;
      idle = busy ? 0 : idle + 1;
      if (round % 32 == 0 || idle == patience) {
        if (const Clock::time_point now = Clock::now(); now >= look_at) {
          look_at = now + look_interval;
          worker_.look(operations_.late(now));
          conclude_ended();
        }
      }
      if (idle < patience) continue;
      asleep_.store(true, std::memory_order_seq_cst);
      if (nothing_posted()) worker_.sleep(wake_.get(), operations_.empty() ? long_nap : nap);
      asleep_.store(false, std::memory_order_relaxed);
      std::uint64_t count = 0;
      static_cast<void>(!::read(wake_.get(), &count, sizeof count));
      idle = patience - 2;
    }
  }

  bool nothing_posted() {
    const std::lock_guard lock(mutex_);
    return posted_.empty() && commands_.empty() && !stop_.load(std::memory_order_acquire);
  }

  Worker& worker_;
  UniqueFd wake_;
  MessageOperations operations_;
  std::vector<Posted> beginning_;
  std::mutex mutex_;
  std::condition_variable over_;
  std::vector<Posted> posted_;
  std::vector<Command*> commands_;
  int waiters_ = 0;
  bool closed_ = false;
  std::atomic<std::thread::id> progressing_{};
  std::atomic<bool> asleep_{false};
  std::atomic<bool> stop_{false};
  std::unique_ptr<void, void (*)(void*)> owner_{nullptr, nullptr};  ///< of the thread, to be let go of at its end
  std::thread thread_;
};

/// Makes a T, which has a worker and, as its member `progress`, who makes progress on it. A coroutine that goes on there
/// may let go of it last: a thread cannot end under its own feet, so it ends T when its errand at hand is over, and then
/// itself; nobody joins it.
template <class T, class... Arguments>
std::shared_ptr<T> make_progressing(Arguments&&... arguments) {
  return {new T(std::forward<Arguments>(arguments)...),
          [](T* last) { last->progress.let_go(std::unique_ptr<T>(last)); }};
}

}  // namespace allfold
