// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>
#include <allfold/base/error.hpp>
#include <allfold/base/function_ref.hpp>
#include <allfold/memory/cuda_driver.cuh>
#include <allfold/memory/cuda_pool.cuh>
#include <allfold/memory/cuda_scope.cuh>
#include <allfold/transport/ucx_cuda_gates.cuh>
#include <allfold/transport/ucx_link.hpp>
#include <allfold/transport/ucx_worker.hpp>

namespace allfold {

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

/// Awaits what stays where it is: nvcc's co_await would copy it.
template <class A>
struct Awaited {
  A& it;

  bool await_ready() const noexcept { return it.await_ready(); }
  void await_suspend(std::coroutine_handle<> waiter) const { it.await_suspend(waiter); }
  auto await_resume() const noexcept { return it.await_resume(); }
};

class CudaRoom;

/// Work of the GPU that has been started. Awaiting it gives whether it went well; who drops it waits for it.
class CudaStep {
 public:
  /// Over, and ok.
  CudaStep() noexcept = default;
  CudaStep(CudaRoom& room, detail::CudaMark& mark) noexcept : room_(&room), mark_(&mark) {}
  static CudaStep refused() noexcept {
    CudaStep step;
    step.ok_ = false;
    return step;
  }
  CudaStep(CudaStep&& other) noexcept
      : room_(other.room_), mark_(std::exchange(other.mark_, nullptr)), ok_(other.ok_) {}
  CudaStep& operator=(CudaStep&& other) noexcept {
    std::swap(room_, other.room_);
    std::swap(mark_, other.mark_);
    std::swap(ok_, other.ok_);
    return *this;
  }
  ~CudaStep();

  bool await_ready() const noexcept { return mark_ == nullptr || mark_->over; }
  void await_suspend(std::coroutine_handle<> waiter) noexcept { mark_->waiter = waiter; }
  bool await_resume() const noexcept { return mark_ == nullptr ? ok_ : mark_->ok; }

 private:
  CudaRoom* room_ = nullptr;
  detail::CudaMark* mark_ = nullptr;
  bool ok_ = true;
};

/// The GPU of a rank as its calls over UCX use it: streams, pools of memory, and what waits for it. Progress polls it, for
/// a GPU resumes no coroutine. For the thread that makes progress, but where a member says otherwise.
///
/// Copies from the GPU, copies to it, and its own work have a stream each, so that both ways of the bus are busy; what one
/// stream does after another goes through the host, which awaits it.
class CudaRoom final : public UcxPoller {
 public:
  enum Lane : unsigned char { work, from_device, to_device };

  /// Of the device that is current. @throws CudaError
  ALLFOLD_COLD explicit CudaRoom(const Where& where)
      : where_("progress", where.rank(), where.world_size()), driver_(CudaDriver::load(where)) {
    check_cuda(where, cudaGetDevice(&device_),
               {"no GPU; expected one that CUDA can use; see nvidia-smi, or use UcxTransport for memory of the host"});
    check_cuda(where, cudaSetDevice(device_), {"device ", device_, " cannot be used"});
    gates_ = std::make_unique<CudaGates>(driver_, device_);
    for (Queue& lane : lanes_) {
      check_cuda(where, cudaStreamCreateWithFlags(&lane.stream, cudaStreamNonBlocking), {"no stream for copies"});
    }
  }
  CudaRoom(const CudaRoom&) = delete;
  CudaRoom& operator=(const CudaRoom&) = delete;
  ~CudaRoom() {
    const CudaScope scope(device_);
    for (Queue& lane : lanes_) {
      if (lane.stream == nullptr) continue;
      static_cast<void>(cudaStreamSynchronize(lane.stream));
      static_cast<void>(cudaStreamDestroy(lane.stream));
    }
    for (const auto& mark : marks_) {
      if (mark->event != nullptr) static_cast<void>(cudaEventDestroy(mark->event));
    }
    for (const cudaEvent_t event : inputs_free_) static_cast<void>(cudaEventDestroy(event));
  }

  int device() const noexcept { return device_; }
  const CudaDriver& driver() const noexcept { return driver_; }
  const Where& where() const noexcept { return where_; }
  CudaGates& gates() noexcept { return *gates_; }
  CudaPool& device_pool() noexcept { return device_pool_; }
  CudaPool& pinned_pool() noexcept { return pinned_pool_; }

  /// Links whose calls end where the GPU fails.
  void join(UcxLink& link) { links_.push_back(&link); }
  void leave(UcxLink& link) noexcept { std::erase(links_, &link); }

  /// Gives a lane something to do.
  template <class Enqueue>
  CudaStep start(Lane lane, Enqueue&& enqueue) {
    if (ended_) return CudaStep::refused();
    detail::CudaMark& mark = take();
    Queue& queue = lanes_[lane];
    if (!fault_) {
      const cudaError_t error = enqueue(queue.stream);
      expect(error == cudaSuccess ? cudaEventRecord(mark.event, queue.stream) : error);
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

  /// The calls of this rank cannot go on, on any rank.
  ALLFOLD_COLD void fail(std::exception_ptr why) noexcept {
    if (fault_) return;
    fault_ = std::move(why);
    faulted_.store(true, std::memory_order_release);
  }
  /// What a coroutine awaits that has called fail(): false, once nothing is under way any more.
  CudaStep failed() {
    return start(work, [](cudaStream_t) { return cudaSuccess; });
  }
  /// Why, if it is so; for any thread.
  std::exception_ptr fault() const noexcept {
    return faulted_.load(std::memory_order_acquire) ? fault_ : std::exception_ptr();
  }

  /// What a stream of the caller's has to do before a call.
  class Input {
   public:
    Input() noexcept = default;
    Input(CudaRoom& room, cudaEvent_t event) noexcept : room_(&room), event_(event) {}
    Input(Input&& other) noexcept : room_(other.room_), event_(std::exchange(other.event_, nullptr)) {}
    Input& operator=(Input&& other) noexcept {
      std::swap(room_, other.room_);
      std::swap(event_, other.event_);
      return *this;
    }
    ~Input() {
      if (event_ != nullptr) room_->give_input(event_);
    }
    cudaEvent_t event() const noexcept { return event_; }

   private:
    CudaRoom* room_ = nullptr;
    cudaEvent_t event_ = nullptr;
  };

  /// For any thread. @throws UsageError for a stream that is under capture; CudaError
  Input input(const Where& where, cudaStream_t stream) {
    const CudaScope scope(device_);
    check_not_captured(where, stream);
    Input input(*this, take_input(where));
    check_cuda(where, cudaEventRecord(input.event(), stream),
               {"CallOptions::stream cannot be waited for; expected one of device ", device_});
    return input;
  }

  /// Awaits an input; false if the link has failed before. Of calls with one tag, as messages of a user may be, none
  /// begins before those that were made earlier.
  class Arrival {
   public:
    Arrival(CudaRoom& room, const UcxLink& link, const Input& input, std::uint64_t tag) noexcept
        : room_(room), link_(link), input_(input), tag_(tag) {}
    Arrival(const Arrival&) = delete;
    Arrival& operator=(const Arrival&) = delete;
    ~Arrival() {
      if (waiter_) std::erase(room_.arrivals_, this);
    }

    /// Never: what follows runs in progress, where the GPU is current.
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) {
      room_.arrivals_.push_back(this);
      waiter_ = waiter;
    }
    bool await_resume() const noexcept { return ok_; }

   private:
    friend class CudaRoom;

    /// Whether it is over.
    bool look() {
      if (link_.failure() || room_.fault_) return true;
      const cudaError_t error = cudaEventQuery(input_.event());
      if (error == cudaErrorNotReady) return false;
      room_.expect(error);
      ok_ = error == cudaSuccess;
      return true;
    }

    CudaRoom& room_;
    const UcxLink& link_;
    const Input& input_;
    std::uint64_t tag_;
    std::coroutine_handle<> waiter_;
    bool ok_ = false;
  };

  bool poll() override {
    bool moved = false;
    for (Queue& lane : lanes_) moved = poll(lane) || moved;
    for (std::size_t i = 0; i < arrivals_.size();) {
      if (follows_another(i) || !arrivals_[i]->look()) {
        ++i;
        continue;
      }
      if (fault_) end();
      const auto waiter = std::exchange(arrivals_[i]->waiter_, nullptr);
      arrivals_.erase(arrivals_.begin() + static_cast<std::ptrdiff_t>(i));
      waiter.resume();
      moved = true;
      i = 0;
    }
    while (!ready_.empty()) {
      const auto waiter = ready_.front();
      ready_.erase(ready_.begin());
      waiter.resume();
      moved = true;
    }
    return moved;
  }

  /// Resumes a coroutine the next time that it is polled, unless it is taken back.
  void resume_soon(std::coroutine_handle<> waiter) { ready_.push_back(waiter); }
  void take_back(std::coroutine_handle<> waiter) noexcept { std::erase(ready_, waiter); }

  Duration rest() const noexcept override {
    if (!ready_.empty() || at_work()) return Duration::zero();
    return arrivals_.empty() ? Duration::max() : std::chrono::microseconds(50);
  }

  void settle() noexcept override {
    for (const Queue& lane : lanes_) static_cast<void>(cudaStreamSynchronize(lane.stream));
  }

  /// Whether lanes have something to do.
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

  bool follows_another(std::size_t arrival) const noexcept {
    for (std::size_t i = 0; i < arrival; ++i) {
      if (arrivals_[i]->tag_ == arrivals_[arrival]->tag_) return true;
    }
    return false;
  }

  void expect(cudaError_t error) noexcept {
    if (error == cudaSuccess) return;
    static_cast<void>(cudaGetLastError());
    fail(std::make_exception_ptr(CudaError(where_, error, cudaGetErrorName(error), {"the GPU failed during a call"})));
  }

  /// After a failure of the GPU: nothing is under way any more, here or between ranks.
  ALLFOLD_COLD void end() {
    if (std::exchange(ended_, true)) return;
    for (UcxLink* const link : links_) link->abandon({ErrorCode::peer, link->rank()});
  }

  bool poll(Queue& lane) {
    bool moved = false;
    while (detail::CudaMark* const mark = lane.first) {
      if (!mark->over) {
        cudaError_t error = cudaErrorUnknown;
        if (!fault_) {
          error = cudaEventQuery(mark->event);
          if (error == cudaErrorNotReady) break;
          expect(error);
        }
        if (fault_) end();
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
    if (!mark.over && !fault_) static_cast<void>(cudaEventSynchronize(mark.event));
    mark.over = true;
    mark.dropped = true;
  }

  detail::CudaMark& take() {
    if (free_ == nullptr) {
      marks_.push_back(std::make_unique<detail::CudaMark>());
      free_ = marks_.back().get();
      expect(cudaEventCreateWithFlags(&free_->event, cudaEventDisableTiming));
    }
    detail::CudaMark* const mark = std::exchange(free_, free_->next);
    const cudaEvent_t event = mark->event;
    *mark = {};
    mark->event = event;
    return *mark;
  }
  void give(detail::CudaMark& mark) noexcept { mark.next = std::exchange(free_, &mark); }

  cudaEvent_t take_input(const Where& where) {
    {
      const std::lock_guard lock(inputs_mutex_);
      if (!inputs_free_.empty()) {
        const cudaEvent_t event = inputs_free_.back();
        inputs_free_.pop_back();
        return event;
      }
      inputs_free_.reserve(++inputs_);  // so that give_input() never fails
    }
    cudaEvent_t event = nullptr;
    check_cuda(where, cudaEventCreateWithFlags(&event, cudaEventDisableTiming), {"no event to wait for the input by"});
    return event;
  }
  void give_input(cudaEvent_t event) noexcept {
    const std::lock_guard lock(inputs_mutex_);
    inputs_free_.push_back(event);
  }

  Where where_;
  CudaDriver driver_;
  int device_ = -1;
  std::unique_ptr<CudaGates> gates_;
  CudaPool device_pool_{CudaPool::Kind::device};
  CudaPool pinned_pool_{CudaPool::Kind::pinned};
  Queue lanes_[3];
  std::vector<std::unique_ptr<detail::CudaMark>> marks_;
  detail::CudaMark* free_ = nullptr;
  std::vector<Arrival*> arrivals_;
  std::vector<std::coroutine_handle<>> ready_;
  std::vector<UcxLink*> links_;
  std::exception_ptr fault_;
  std::atomic<bool> faulted_{false};
  bool ended_ = false;
  std::mutex inputs_mutex_;
  std::vector<cudaEvent_t> inputs_free_;
  std::size_t inputs_ = 0;
};

inline CudaStep::~CudaStep() {
  if (mark_ != nullptr) room_->drop(*mark_);
}

}  // namespace allfold
