// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>
#include <utility>

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
    const std::lock_guard lock(mutex_);
    if (closed_) return false;
    listener.next_ = std::exchange(first_, &listener);
    return true;
  }

  /// If it has not been told, it will not be.
  void remove(const OperationListener& listener) noexcept {
    const std::lock_guard lock(mutex_);
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
  OperationListener* take() noexcept {
    const std::lock_guard lock(mutex_);
    if (first_ == nullptr) {
      closed_ = true;
      return nullptr;
    }
    return std::exchange(first_, first_->next_);
  }

  std::mutex mutex_;
  OperationListener* first_ = nullptr;
  bool closed_ = false;
};

}  // namespace allfold
