// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <utility>

#include <sched.h>

namespace allfold {

class MessageOperation;

/// Is told once that an operation is over, by who makes progress.
class OperationListener {
 public:
  virtual void over(MessageOperation& operation) = 0;

 protected:
  ~OperationListener() = default;

 private:
  friend class OperationListeners;
  OperationListener* next_ = nullptr;
};

/// Who is to be told of one operation. For any thread.
class OperationListeners {
 public:
  OperationListeners() noexcept = default;
  OperationListeners(const OperationListeners&) = delete;
  OperationListeners& operator=(const OperationListeners&) = delete;

  /// Whether it will be told; if not, all have been.
  bool add(OperationListener& listener) noexcept {
    const Hold hold(held_);
    if (closed_) return false;
    listener.next_ = std::exchange(first_, &listener);
    return true;
  }

  /// If it has not been told, it will not be.
  void remove(const OperationListener& listener) noexcept {
    const Hold hold(held_);
    for (OperationListener** at = &first_; *at != nullptr; at = &(*at)->next_) {
      if (*at != &listener) continue;
      *at = listener.next_;
      return;
    }
  }

  /// Tells all, also who is added meanwhile. A listener may delete itself, and remove others.
  void tell(MessageOperation& operation) noexcept {
    while (OperationListener* const listener = take()) listener->over(operation);
  }

 private:
  /// A lock for a few instructions, at half the price of a mutex: each operation takes it, and hardly ever two threads.
  class Hold {
   public:
    explicit Hold(std::atomic_flag& held) noexcept : held_(held) {
      while (held_.test_and_set(std::memory_order_acquire)) ::sched_yield();
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    ~Hold() { held_.clear(std::memory_order_release); }

   private:
    std::atomic_flag& held_;
  };

  OperationListener* take() noexcept {
    const Hold hold(held_);
    if (first_ == nullptr) {
      closed_ = true;
      return nullptr;
    }
    return std::exchange(first_, first_->next_);
  }

  std::atomic_flag held_;
  OperationListener* first_ = nullptr;
  bool closed_ = false;
};

}  // namespace allfold
