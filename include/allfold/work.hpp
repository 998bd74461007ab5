// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <coroutine>
#include <cstdint>
#include <exception>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/launch/message_operation.hpp>
#include <allfold/launch/message_progress.hpp>
#include <allfold/op/element.hpp>

namespace allfold {

/// One operation over messages, as who called it sees it. Copies show the same operation. Dropping a Work does not end
/// the operation, whose buffers must be left alone until it is over; a default one is over, and went well.
///
/// Where the caller makes progress, `done`, `wait` and co_await move all of the communicator's operations on, and
/// nothing else does; where a thread does, they may be called from any thread. An operation that fails ends the
/// communicator. Its communicator may go while somebody waits for it: it ends with UsageError then.
class Work {
 public:
  Work() noexcept = default;
  /// `progress` belongs to who begins operations; who waits keeps it until he has come out.
  Work(OperationRef operation, std::weak_ptr<MessageProgress> progress, const Where& where, bool has_thread,
       bool futures) noexcept
      : operation_(std::move(operation)),
        progress_(std::move(progress)),
        where_(where),
        has_thread_(has_thread),
        futures_(futures) {}

  /// Whether it is over, well or not, as far as progress has been made.
  bool over() const noexcept { return operation_.get() == nullptr || operation_->over(); }

  /// The same after a round of progress, where the caller makes it. Never waits.
  bool done() const {
    if (over()) return true;
    if (const auto progress = progress_.lock()) progress->poll();
    return over();
  }

  /// Returns when it is over.
  /// @throws TimeoutError or PeerError that names the rank that did not arrive, MismatchError
  void wait() const {
    wait_until(Deadline(Clock::time_point::max()));
    rethrow();
  }

  /// The same, or until the time has passed: whether it is over. Its own timeout goes on.
  bool wait(Duration timeout) const {
    wait_until(Deadline::after(timeout));
    if (!over()) return false;
    rethrow();
    return true;
  }

  /// Lets a stream of the GPU wait for it: what is enqueued there next sees the output. The host waits, as wait() does;
  /// but not where a thread makes progress and MessageOptions::cuda_gates is set. There a failed operation lets the
  /// stream go on too, and shows in status().
  /// @throws as wait() if it is over; UsageError for a stream under capture
  void wait(CUstream_st* stream) const {
    const auto progress = progress_.lock();
    StreamGates* const gates = progress != nullptr ? progress->gates() : nullptr;
    if (over() || !has_thread_ || gates == nullptr) return wait();
    gates->close_until_over(where_, operation_, stream);
  }

  /// Why it failed; null if it did not, or is not over.
  std::exception_ptr error() const noexcept {
    return operation_.get() != nullptr && over() ? operation_->error() : nullptr;
  }

  /// Of a receive: the rank that the message came from. Waits.
  /// @throws as wait(); UsageError for other operations
  int source_rank() const {
    wait();
    if (operation_.get() == nullptr || operation_->source() < 0) {
      throw UsageError(where_, {"there is no source rank; expected the Work of a receive"});
    }
    return operation_->source();
  }

  /// What numbers the operation among those of its channel.
  std::uint32_t sequence() const noexcept { return operation_.get() != nullptr ? operation_->sequence() : 0; }

  /// The elements it has written. Waits.
  /// @throws as wait(); UsageError if they are of another type
  template <element T>
  std::span<T> result() const {
    wait();
    const OperationResult written = operation_.get() != nullptr ? operation_->result() : OperationResult{};
    if (written.data != nullptr && written.type != type_identity<T>()) {
      throw UsageError(where_, {"the result has elements of another type than ", type_name<T>(),
                                "; expected the type of the output"});
    }
    return {static_cast<T*>(written.data), written.count};
  }

  /// A future for code that takes one. Where the caller makes progress, its get() and wait() make it.
  /// @throws UsageError where MessageOptions::futures is off
  std::future<void> future() const {
    if (!futures_) {
      throw UsageError(where_, {"futures are off; expected MessageOptions::futures, or ALLFOLD_FUTURES=1; use wait()"});
    }
    if (!has_thread_) {
      return std::async(std::launch::deferred, [work = *this] { work.wait(); });
    }
    auto promise = std::make_unique<Promise>();
    std::future<void> future = promise->promise.get_future();
    if (operation_->listen(*promise)) {
      static_cast<void>(promise.release());  // it deletes itself
    } else {
      promise->fulfil(*operation_);
    }
    return future;
  }

 private:
  friend class WorkAwaiter;

  struct Promise final : OperationListener {
    std::promise<void> promise;

    void over(MessageOperation& operation) override {
      const std::unique_ptr<Promise> self(this);
      fulfil(operation);
    }
    void fulfil(const MessageOperation& operation) {
      operation.error() ? promise.set_exception(operation.error()) : promise.set_value();
    }
  };

  void rethrow() const {
    if (operation_.get() != nullptr && operation_->error()) std::rethrow_exception(operation_->error());
  }

  void wait_until(Deadline until) const {
    while (!over()) {
      const auto progress = progress_.lock();
      if (progress == nullptr) continue;  // its owner has just gone, and ended the operation first
      return operation_->report_wait([&] { progress->wait(*operation_, until); });
    }
  }

  OperationRef operation_;
  std::weak_ptr<MessageProgress> progress_;
  Where where_{"work"};
  bool has_thread_ = false;
  bool futures_ = true;
};

/// What co_await of a Work awaits. A coroutine that is destroyed while it waits is not resumed: destroy it where it
/// cannot go on at the same time, that is, where progress is made.
class WorkAwaiter final : public OperationListener {
 public:
  explicit WorkAwaiter(Work work) noexcept : work_(std::move(work)) {}
  WorkAwaiter(const WorkAwaiter&) = delete;
  WorkAwaiter& operator=(const WorkAwaiter&) = delete;
  ~WorkAwaiter() {
    if (waiter_) work_.operation_->forget(*this);
  }

  bool await_ready() const { return work_.done(); }
  bool await_suspend(std::coroutine_handle<> waiter) noexcept {
    waiter_ = waiter;
    return work_.operation_->listen(*this);
  }
  void await_resume() const { work_.rethrow(); }
  void over(MessageOperation&) override { std::exchange(waiter_, nullptr).resume(); }

 private:
  Work work_;
  std::coroutine_handle<> waiter_;  ///< null: it has been told, or does not wait
};

/// Gives what wait() does. The coroutine goes on where progress is made, so it must not wait there for another Work but
/// by co_await.
inline WorkAwaiter operator co_await(const Work& work) noexcept { return WorkAwaiter(work); }

}  // namespace allfold
