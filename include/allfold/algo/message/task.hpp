// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <new>
#include <utility>

#include <allfold/memory/block_pool.hpp>

namespace allfold {

namespace detail {

template <class E>
concept has_frames = requires(E& e) {
  { e.frames() } -> std::same_as<BlockPool&>;
};

/// The pool of the first argument that has one; null if none has.
inline BlockPool* frame_pool() noexcept { return nullptr; }
template <class First, class... Rest>
BlockPool* frame_pool(First& first, Rest&... rest) noexcept {
  if constexpr (has_frames<First>) {
    return &first.frames();
  } else {
    return frame_pool(rest...);
  }
}

/// What lies before a coroutine's frame, and keeps its alignment.
struct alignas(__STDCPP_DEFAULT_NEW_ALIGNMENT__) FrameHead {
  BlockPool* pool;
};

inline void* new_frame(std::size_t bytes, BlockPool* pool) {
  const std::size_t whole = bytes + sizeof(FrameHead);
  void* const at = pool != nullptr ? pool->take(whole) : ::operator new(whole);
  return ::new (at) FrameHead{pool} + 1;
}

inline void delete_frame(void* frame, std::size_t bytes) noexcept {
  FrameHead* const head = static_cast<FrameHead*>(frame) - 1;
  if (head->pool != nullptr) {
    head->pool->give(head, bytes + sizeof(FrameHead));
  } else {
    ::operator delete(head);
  }
}

}  // namespace detail

/// A coroutine that waits for several things: the last of them resumes it.
struct Join {
  std::coroutine_handle<> waiter;
  int pending = 0;

  /// One of them is over: what is to be resumed now.
  std::coroutine_handle<> arrive() noexcept { return --pending == 0 ? waiter : std::noop_coroutine(); }
};

/// A coroutine that computes a T: it starts when it is awaited (or, by who drives it, with `start`), and hands over to
/// who awaits it when it is done, without growing the stack.
///
/// Its frame comes from the pool of the first argument that has one (`frames()`): an endpoint has. An exception, such
/// as std::bad_alloc of a pool, crosses to who awaits the task, or asks for the result; a failed collective is no
/// exception but `false`.
template <class T>
class [[nodiscard]] Task {
 public:
  struct promise_type {
    T value{};
    std::exception_ptr error;
    Join* join = nullptr;  ///< of who awaits it

    template <class... Args>
    static void* operator new(std::size_t bytes, Args&... args) {
      return detail::new_frame(bytes, detail::frame_pool(args...));
    }
    static void operator delete(void* frame, std::size_t bytes) noexcept { detail::delete_frame(frame, bytes); }

    Task get_return_object() noexcept { return Task(Handle::from_promise(*this)); }
    std::suspend_always initial_suspend() const noexcept { return {}; }

    struct HandOver {
      bool await_ready() const noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> self) const noexcept {
        Join* const join = self.promise().join;
        return join != nullptr ? join->arrive() : std::noop_coroutine();
      }
      void await_resume() const noexcept {}
    };
    HandOver final_suspend() const noexcept { return {}; }

    void return_value(T result) noexcept { value = std::move(result); }
    void unhandled_exception() noexcept { error = std::current_exception(); }

    T take() {
      if (error) std::rethrow_exception(std::exchange(error, nullptr));
      return std::move(value);
    }
  };

  Task() noexcept = default;
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  /// Runs it until it first waits. For who drives it: a task that is awaited is started so.
  void start() { handle_.resume(); }
  bool done() const noexcept { return handle_.done(); }
  /// Who is told when it is done, of one that has been started by hand and is not.
  void watch(Join& join) noexcept { handle_.promise().join = &join; }
  /// Of a task that is done, once. @throws what its body threw
  T result() { return handle_.promise().take(); }

  auto operator co_await() && noexcept {
    struct Awaiter {
      Handle task;
      Join join{};
      bool await_ready() const noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<> waiter) noexcept {
        join = {waiter, 1};
        task.promise().join = &join;
        return task;
      }
      T await_resume() const { return task.promise().take(); }
    };
    return Awaiter{handle_};
  }

 private:
  template <std::size_t N>
  friend class SideBySide;

  using Handle = std::coroutine_handle<promise_type>;

  explicit Task(Handle handle) noexcept : handle_(handle) {}

  Handle handle_ = nullptr;
};

/// Runs tasks side by side: each until it waits, then whichever can go on. Awaiting it gives whether all gave true.
template <std::size_t N>
class SideBySide {
 public:
  template <std::same_as<Task<bool>>... Tasks>
  explicit SideBySide(Tasks... tasks) noexcept : tasks_{std::move(tasks)...} {}

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> waiter) {
    join_ = {waiter, static_cast<int>(N) + 1};  // not over before all have begun
    for (Task<bool>& task : tasks_) {
      task.handle_.promise().join = &join_;
      task.start();
    }
    return --join_.pending != 0;
  }
  bool await_resume() {
    bool ok = true;
    for (Task<bool>& task : tasks_) ok = task.result() && ok;
    return ok;
  }

 private:
  Task<bool> tasks_[N];
  Join join_;
};
template <class... Tasks>
SideBySide(Tasks...) -> SideBySide<sizeof...(Tasks)>;

}  // namespace allfold
