// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>
#include <allfold/base/error.hpp>
#include <allfold/transport/ucx_link.hpp>

namespace allfold {

/// Why a rank's calls cannot go on, and whose they are. For the thread that makes progress, but where a member says
/// otherwise.
class CudaFault {
 public:
  explicit CudaFault(const Where& where) noexcept : where_(where) {}
  CudaFault(const CudaFault&) = delete;
  CudaFault& operator=(const CudaFault&) = delete;

  /// Links whose calls end with the first fault.
  void join(UcxLink& link) { links_.push_back(&link); }
  void leave(UcxLink& link) noexcept { std::erase(links_, &link); }

  /// The calls of this rank cannot go on, on any rank.
  ALLFOLD_COLD void set(std::exception_ptr why) noexcept {
    if (why_) return;
    why_ = std::move(why);
    there_.store(true, std::memory_order_release);
  }
  void expect(cudaError_t error) noexcept {
    if (error == cudaSuccess) return;
    static_cast<void>(cudaGetLastError());
    set(std::make_exception_ptr(CudaError(where_, error, cudaGetErrorName(error), {"the GPU failed during a call"})));
  }
  bool there() const noexcept { return why_ != nullptr; }
  /// Null: there is none; for any thread.
  std::exception_ptr why() const noexcept {
    return there_.load(std::memory_order_acquire) ? why_ : std::exception_ptr();
  }

  /// Nothing is under way any more then, here or between ranks.
  ALLFOLD_COLD void end_calls() {
    if (std::exchange(ended_, true)) return;
    for (UcxLink* const link : links_) link->abandon({ErrorCode::peer, link->rank()});
  }
  /// Whether end_calls() was called.
  bool ended_calls() const noexcept { return ended_; }

 private:
  Where where_;
  std::vector<UcxLink*> links_;
  std::exception_ptr why_;
  std::atomic<bool> there_{false};
  bool ended_ = false;
};

namespace detail {

/// What a stream has been given to do.
struct CudaMark {
  cudaEvent_t event = nullptr;
  std::coroutine_handle<> waiter;
  CudaMark* next = nullptr;  ///< in its lane, or free
  bool queued = false;       ///< in its lane
  bool over = false;
  bool ok = false;
  bool dropped = false;
};

}  // namespace detail

class CudaLanes;

/// Work of the GPU that has been started. Awaiting it gives whether it went well; who drops it waits for it.
class CudaStep {
 public:
  /// Over, and ok.
  CudaStep() noexcept = default;
  CudaStep(CudaLanes& lanes, detail::CudaMark& mark) noexcept : lanes_(&lanes), mark_(&mark) {}
  static CudaStep refused() noexcept {
    CudaStep step;
    step.ok_ = false;
    return step;
  }
  CudaStep(CudaStep&& other) noexcept
      : lanes_(other.lanes_), mark_(std::exchange(other.mark_, nullptr)), ok_(other.ok_) {}
  CudaStep& operator=(CudaStep&& other) noexcept {
    std::swap(lanes_, other.lanes_);
    std::swap(mark_, other.mark_);
    std::swap(ok_, other.ok_);
    return *this;
  }
  ~CudaStep();

  bool await_ready() const noexcept { return mark_ == nullptr || mark_->over; }
  void await_suspend(std::coroutine_handle<> waiter) noexcept { mark_->waiter = waiter; }
  bool await_resume() const noexcept { return mark_ == nullptr ? ok_ : mark_->ok; }

 private:
  CudaLanes* lanes_ = nullptr;
  detail::CudaMark* mark_ = nullptr;
  bool ok_ = true;
};

/// The streams of a rank's calls, each with what it has been given to do, in order. For the thread that makes progress.
///
/// Copies from the GPU, copies to it, and its own work have a stream each, so that both ways of the bus are busy; what
/// one stream does after another goes through the host, which awaits it.
class CudaLanes {
 public:
  enum Lane : unsigned char { work, from_device, to_device };

  /// On the device that is current.
  /// @throws CudaError
  ALLFOLD_COLD CudaLanes(const Where& where, CudaFault& fault) : fault_(fault) {
    for (Queue& lane : lanes_) {
      check_cuda(where, cudaStreamCreateWithFlags(&lane.stream, cudaStreamNonBlocking), {"no stream for copies"});
    }
  }
  CudaLanes(const CudaLanes&) = delete;
  CudaLanes& operator=(const CudaLanes&) = delete;
  ~CudaLanes() {
    settle();
    for (Queue& lane : lanes_) {
      if (lane.stream != nullptr) static_cast<void>(cudaStreamDestroy(lane.stream));
    }
    for (const auto& mark : marks_) {
      if (mark->event != nullptr) static_cast<void>(cudaEventDestroy(mark->event));
    }
  }

  /// Gives a lane something to do: what `enqueue(stream)` does, which returns a cudaError_t.
  template <class Enqueue>
  CudaStep start(Lane lane, Enqueue&& enqueue) {
    if (fault_.ended_calls()) return CudaStep::refused();
    detail::CudaMark& mark = take();
    Queue& queue = lanes_[lane];
    if (!fault_.there()) {
      const cudaError_t error = enqueue(queue.stream);
      fault_.expect(error == cudaSuccess ? cudaEventRecord(mark.event, queue.stream) : error);
    }
    mark.queued = true;
    *queue.last = &mark;
    queue.last = &mark.next;
    return CudaStep(*this, mark);
  }
  CudaStep copy(Lane lane, void* to, const void* from, std::size_t bytes) {
    return start(lane,
                 [&](cudaStream_t stream) { return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream); });
  }
  /// What a coroutine awaits that has found a fault: false, once nothing is under way any more.
  CudaStep failed() {
    return start(work, [](cudaStream_t) { return cudaSuccess; });
  }

  /// Resumes who waits for what is over; whether there was anything.
  bool poll() {
    bool moved = false;
    for (Queue& lane : lanes_) moved = poll(lane) || moved;
    return moved;
  }
  /// Returns when nothing is under way.
  void settle() noexcept {
    for (const Queue& lane : lanes_) {
      if (lane.stream != nullptr) static_cast<void>(cudaStreamSynchronize(lane.stream));
    }
  }
  /// Whether there is something to do.
  bool at_work() const noexcept {
    return std::any_of(std::begin(lanes_), std::end(lanes_), [](const Queue& lane) { return lane.first != nullptr; });
  }

 private:
  friend class CudaStep;

  struct Queue {
    cudaStream_t stream = nullptr;
    detail::CudaMark* first = nullptr;
    detail::CudaMark** last = &first;
  };

  bool poll(Queue& lane) {
    bool moved = false;
    while (detail::CudaMark* const mark = lane.first) {
      if (!mark->over) {
        cudaError_t error = cudaErrorUnknown;
        if (!fault_.there()) {
          error = cudaEventQuery(mark->event);
          if (error == cudaErrorNotReady) break;
          fault_.expect(error);
        }
        if (fault_.there()) fault_.end_calls();
        mark->over = true;
        mark->ok = error == cudaSuccess;
      }
      lane.first = mark->next;
      if (lane.first == nullptr) lane.last = &lane.first;
      mark->next = nullptr;
      mark->queued = false;
      moved = true;
      const auto waiter = std::exchange(mark->waiter, nullptr);
      if (mark->dropped) {
        give(*mark);
      } else if (waiter) {
        waiter.resume();
      }
    }
    return moved;
  }

  void drop(detail::CudaMark& mark) noexcept {
    mark.waiter = nullptr;
    if (!mark.queued) return give(mark);
    if (!mark.over && !fault_.there()) static_cast<void>(cudaEventSynchronize(mark.event));
    mark.over = true;
    mark.dropped = true;
  }

  detail::CudaMark& take() {
    if (free_ == nullptr) {
      marks_.push_back(std::make_unique<detail::CudaMark>());
      free_ = marks_.back().get();
      fault_.expect(cudaEventCreateWithFlags(&free_->event, cudaEventDisableTiming));
    }
    detail::CudaMark* const mark = std::exchange(free_, free_->next);
    const cudaEvent_t event = mark->event;
    *mark = {};
    mark->event = event;
    return *mark;
  }
  void give(detail::CudaMark& mark) noexcept { mark.next = std::exchange(free_, &mark); }

  CudaFault& fault_;
  Queue lanes_[3];
  std::vector<std::unique_ptr<detail::CudaMark>> marks_;
  detail::CudaMark* free_ = nullptr;
};

inline CudaStep::~CudaStep() {
  if (mark_ != nullptr) lanes_->drop(*mark_);
}

}  // namespace allfold
