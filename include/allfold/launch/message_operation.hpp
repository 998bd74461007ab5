// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/task.hpp>
#include <allfold/base/config.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/function_ref.hpp>
#include <allfold/launch/operation_listener.hpp>

namespace allfold {

class MessageOperations;

/// Memory that a call writes, for Work::result.
struct OperationResult {
  void* data = nullptr;
  std::size_t count = 0;
  std::uint64_t type = 0;
};

/// One call over messages, from when it is made until it is over. It belongs to whoever makes progress, and to each
/// Work that shows it; the last of them deletes it.
class MessageOperation {
 public:
  MessageOperation(const MessageOperation&) = delete;
  MessageOperation& operator=(const MessageOperation&) = delete;

  std::uint32_t sequence() const noexcept { return sequence_; }
  OperationResult result() const noexcept { return result_; }

  /// Whether it has ended, well or not; then the rest may be read.
  bool over() const noexcept { return over_.load(std::memory_order_acquire); }
  /// Null: it ended well.
  const std::exception_ptr& error() const noexcept { return error_; }
  /// The rank a message came from; -1 for other operations.
  int source() const noexcept { return source_; }

  /// Whether `listener` will be told; if not, it is over already.
  bool listen(OperationListener& listener) noexcept { return listeners_.add(listener); }
  /// If the listener has not been told, it will not be.
  void forget(OperationListener& listener) noexcept { listeners_.remove(listener); }

  void retain() noexcept { owners_.fetch_add(1, std::memory_order_relaxed); }
  void release() noexcept {
    // The last owner is alone with it, and needs no atomic step.
    if (owners_.load(std::memory_order_acquire) == 1 || owners_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      delete this;
    }
  }

  /// Runs `wait`, in which the caller waits for it, and reports that it did.
  virtual void report_wait(FunctionRef<void()> wait) = 0;

 protected:
  MessageOperation(std::uint32_t sequence, const OperationResult& result) noexcept
      : result_(result), sequence_(sequence) {}
  virtual ~MessageOperation() = default;

  std::exception_ptr error_;
  int source_ = -1;

 private:
  friend class MessageOperations;

  /// Runs it until it waits.
  virtual void begin(MessageOperations& all) = 0;
  /// Its coroutine has ended: gives back what it held, and sets error().
  virtual void conclude() noexcept = 0;
  /// It cannot go on for want of a communicator.
  virtual void abandon() noexcept = 0;
  /// What messages of it bear.
  virtual std::uint64_t tag() const noexcept = 0;

  OperationResult result_;
  std::uint32_t sequence_;
  std::atomic<int> owners_{1};
  std::atomic<bool> over_{false};
  OperationListeners listeners_;

  // Of who makes progress.
  MessageOperation* before_ = nullptr;
  MessageOperation* after_ = nullptr;
  MessageOperation* next_ended_ = nullptr;
  Duration timeout_{};
  Clock::time_point deadline_{};  ///< not set: nobody has looked at it yet
};

/// The operations of one rank that are under way. For one thread at a time.
class MessageOperations {
 public:
  MessageOperations() noexcept = default;
  MessageOperations(const MessageOperations&) = delete;
  MessageOperations& operator=(const MessageOperations&) = delete;

  bool empty() const noexcept { return first_ == nullptr; }

  /// Takes over one of its owners. Its time begins when it is first looked at: what is over before reads no clock.
  void begin(MessageOperation& operation, Duration timeout) {
    operation.timeout_ = timeout;
    operation.before_ = nullptr;
    operation.after_ = std::exchange(first_, &operation);
    if (operation.after_ != nullptr) operation.after_->before_ = &operation;
    operation.begin(*this);
  }

  /// From the operation's coroutine, as the last it does.
  void ended(MessageOperation& operation) noexcept {
    operation.next_ended_ = nullptr;
    *last_ended_ = &operation;
    last_ended_ = &operation.next_ended_;
  }

  /// Concludes those that have ended; whether there were any.
  bool conclude_ended() {
    if (ended_ == nullptr) return false;
    while (ended_ != nullptr) {
      MessageOperation& operation = *std::exchange(ended_, ended_->next_ended_);
      if (ended_ == nullptr) last_ended_ = &ended_;
      operation.conclude();
      retire(operation);
    }
    return true;
  }

  /// Those that have not ended never will.
  void abandon() noexcept {
    while (first_ != nullptr) {
      first_->abandon();
      retire(*first_);
    }
  }

  /// Takes over one of its owners; it was never begun, and never will be. For any thread.
  static void refuse(MessageOperation& operation) noexcept {
    operation.abandon();
    tell(operation);
  }

  /// The tag of an operation whose deadline has passed; no_call: there is none.
  std::uint64_t late(Clock::time_point now) noexcept {
    for (MessageOperation* each = first_; each != nullptr; each = each->after_) {
      if (each->deadline_ == Clock::time_point{}) each->deadline_ = Deadline::after(each->timeout_, now).at();
      if (now >= each->deadline_) return each->tag();
    }
    return no_call;
  }

 private:
  void retire(MessageOperation& operation) noexcept {
    (operation.before_ != nullptr ? operation.before_->after_ : first_) = operation.after_;
    if (operation.after_ != nullptr) operation.after_->before_ = operation.before_;
    tell(operation);
  }

  static void tell(MessageOperation& operation) noexcept {
    operation.over_.store(true, std::memory_order_release);
    operation.listeners_.tell(operation);
    operation.release();
  }

  MessageOperation* first_ = nullptr;
  MessageOperation* ended_ = nullptr;
  MessageOperation** last_ended_ = &ended_;
};

/// The task of a call as it runs on the endpoint: after what its `after_input` waits for, if it has one.
template <class E>
Task<bool> in_its_order(E& e, Task<bool> task) {
  if constexpr (requires { e.after_input(std::move(task)); }) {
    return e.after_input(std::move(task));
  } else {
    return task;
  }
}

/// What is written of an operation, where nobody wants to know.
struct NoReport {
  void ended(const MessageOperation&) const noexcept {}
  void around(FunctionRef<void()> wait) const { wait(); }
};

/// The operation that runs `body(endpoint, source) -> Task<bool>` on an endpoint.
///
/// `Report` is told when it ends (`ended(operation)`), and runs the caller's waits for it (`around(wait)`).
template <class E, class Body, class Report>
class MessageCall final : public MessageOperation {
 public:
  MessageCall(std::uint32_t sequence, const OperationResult& result, E endpoint, Body body, Report report)
      : MessageOperation(sequence, result),
        endpoint_(std::move(endpoint)),
        body_(std::move(body)),
        report_(std::move(report)) {}

  void report_wait(FunctionRef<void()> wait) override { report_.around(wait); }

 private:
  static Task<bool> run(E& endpoint, MessageCall& call, MessageOperations& all) {
    try {
      call.ok_ = co_await in_its_order(endpoint, call.body_(endpoint, call.source_));
    } catch (...) {
      call.error_ = std::current_exception();
    }
    all.ended(call);
    co_return call.ok_;
  }

  void begin(MessageOperations& all) override {
    try {
      static_cast<void>(runner_ = run(endpoint_, *this, all));  // nvcc finds that it is nodiscard
    } catch (...) {                                             // there was no memory for it
      error_ = std::current_exception();
      return all.ended(*this);
    }
    runner_.start();
  }
  void conclude() noexcept override {
    static_cast<void>(runner_ = {});
    if (error_) {
      end_all();
    } else if (!ok_) {
      error_ = endpoint_.failure();
    }
    report_.ended(*this);
  }
  ALLFOLD_COLD void abandon() noexcept override {
    static_cast<void>(runner_ = {});
    error_ = std::make_exception_ptr(
        UsageError(endpoint_.where(), {"the communicator was destroyed before the call was over; expected it to live "
                                       "until then; wait for the Work first"}));
    report_.ended(*this);
  }
  std::uint64_t tag() const noexcept override { return endpoint_.tag(); }

  /// The coroutine has thrown: the other ranks are told.
  ALLFOLD_COLD void end_all() noexcept {
    try {
      std::rethrow_exception(error_);
    } catch (const MismatchError& error) {
      endpoint_.mismatch(error.source_rank());
    } catch (...) {
      endpoint_.abandon();
    }
  }

  E endpoint_;
  Body body_;
  [[no_unique_address]] Report report_;
  Task<bool> runner_;
  bool ok_ = false;
};

/// Owns a share of an operation.
class OperationRef {
 public:
  OperationRef() noexcept = default;
  /// Takes the share over.
  explicit OperationRef(MessageOperation* operation) noexcept : operation_(operation) {}
  OperationRef(const OperationRef& other) noexcept : operation_(other.operation_) {
    if (operation_ != nullptr) operation_->retain();
  }
  OperationRef(OperationRef&& other) noexcept : operation_(std::exchange(other.operation_, nullptr)) {}
  OperationRef& operator=(OperationRef other) noexcept {
    std::swap(operation_, other.operation_);
    return *this;
  }
  ~OperationRef() {
    if (operation_ != nullptr) operation_->release();
  }

  MessageOperation* get() const noexcept { return operation_; }
  /// Gives the share up to who takes the operation over.
  MessageOperation* give() noexcept { return std::exchange(operation_, nullptr); }
  MessageOperation* operator->() const noexcept { return operation_; }
  MessageOperation& operator*() const noexcept { return *operation_; }

 private:
  MessageOperation* operation_ = nullptr;
};

}  // namespace allfold
