// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <utility>

#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/launch/message_operation.hpp>

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

/// Who makes progress for a rank's operations, as Work sees it: CallerProgress or ThreadProgress.
///
/// A Worker moves messages for one rank:
///   advance()                      lets messages move, and resumes who can go on: whether anything happened
///   look(late)                     looks at the peers, once in a while. `late`: the tag of a call whose deadline has
///                                  passed, or no_call. After a failure all who waited have been resumed
///   drive(over, late)              does both until over(); `late(now)` as above
/// and where threads take turns:
///   pause(empty)                   after so many rounds without a message: gives the core away if others want it
///   arm(timeout)                   how long to sleep, at most that; zero: there is something to do
///   sleep(descriptor, timeout)     until a message comes, the descriptor can be read, or the timeout; may end early.
///                                  Meanwhile another thread may do all of the above
class MessageProgress {
 public:
  MessageProgress(const MessageProgress&) = delete;
  MessageProgress& operator=(const MessageProgress&) = delete;

  /// Begins an operation; it goes on until it is over. A call that cannot begin is over with an error. `awaited`: who
  /// begins it waits for it next.
  virtual void post(OperationRef operation, Duration timeout, bool awaited) = 0;
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

/// Makes a T, which has a worker and, as its member `progress`, who makes progress on it. A coroutine that goes on
/// there may let go of it last: a thread cannot end under its own feet, so it ends T when its errand at hand is over,
/// and then itself; nobody joins it.
template <class T, class... Arguments>
std::shared_ptr<T> make_progressing(Arguments&&... arguments) {
  return {new T(std::forward<Arguments>(arguments)...),
          [](T* last) { last->progress.let_go(std::unique_ptr<T>(last)); }};
}

}  // namespace allfold
