// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <coroutine>
#include <exception>
#include <utility>

namespace allfold_test {

/// A coroutine that nobody waits for.
struct Errand {
  struct promise_type {
    Errand get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};

/// A coroutine that whoever has this may destroy before it ends.
class HeldErrand {
 public:
  struct promise_type {
    HeldErrand get_return_object() noexcept {
      return HeldErrand(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };

  HeldErrand(HeldErrand&& other) noexcept : frame_(std::exchange(other.frame_, nullptr)) {}
  HeldErrand& operator=(HeldErrand&&) = delete;
  ~HeldErrand() { destroy(); }

  void destroy() noexcept {
    if (frame_) std::exchange(frame_, nullptr).destroy();
  }

 private:
  explicit HeldErrand(std::coroutine_handle<> frame) noexcept : frame_(frame) {}
  std::coroutine_handle<> frame_;
};

}  // namespace allfold_test
