// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>
#include <allfold/base/error.hpp>
#include <allfold/memory/cuda_scope.cuh>
#include <allfold/transport/ucx_cuda_lanes.cuh>
#include <allfold/transport/ucx_link.hpp>

namespace allfold {

/// What streams of the caller's have to do before calls, and the calls that wait for it.
class CudaInputs {
 public:
  CudaInputs(int device, CudaFault& fault) noexcept : device_(device), fault_(fault) {}
  CudaInputs(const CudaInputs&) = delete;
  CudaInputs& operator=(const CudaInputs&) = delete;
  ~CudaInputs() {
    for (const cudaEvent_t event : free_) static_cast<void>(cudaEventDestroy(event));
  }

  /// What a stream has to do before one call.
  class Input {
   public:
    Input() noexcept = default;
    Input(CudaInputs& all, cudaEvent_t event) noexcept : all_(&all), event_(event) {}
    Input(Input&& other) noexcept : all_(other.all_), event_(std::exchange(other.event_, nullptr)) {}
    Input& operator=(Input&& other) noexcept {
      std::swap(all_, other.all_);
      std::swap(event_, other.event_);
      return *this;
    }
    ~Input() {
      if (event_ != nullptr) all_->give_event(event_);
    }
    cudaEvent_t event() const noexcept { return event_; }

   private:
    CudaInputs* all_ = nullptr;
    cudaEvent_t event_ = nullptr;
  };

  /// For any thread. @throws UsageError for a stream that is under capture; CudaError
  Input take(const Where& where, cudaStream_t stream) {
    const CudaScope scope(device_);
    check_not_captured(where, stream);
    Input input(*this, take_event(where));
    check_cuda(where, cudaEventRecord(input.event(), stream),
               {"CallOptions::stream cannot be waited for; expected one of device ", device_});
    return input;
  }

  /// Awaits an input; false if the link has failed before. Of calls with one tag, as messages of a user may be, none
  /// begins before those that were made earlier. For the thread that makes progress.
  class Arrival {
   public:
    Arrival(CudaInputs& all, const UcxLink& link, const Input& input, std::uint64_t tag) noexcept
        : all_(all), link_(link), input_(input), tag_(tag) {}
    Arrival(const Arrival&) = delete;
    Arrival& operator=(const Arrival&) = delete;
    ~Arrival() {
      if (waiter_) std::erase(all_.arrivals_, this);
    }

    /// Never: what follows runs in progress, where the GPU is current.
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) {
      all_.arrivals_.push_back(this);
      waiter_ = waiter;
    }
    bool await_resume() const noexcept { return ok_; }

   private:
    friend class CudaInputs;

    /// Whether it is over.
    bool look() {
      if (link_.failure() || all_.fault_.there()) return true;
      const cudaError_t error = cudaEventQuery(input_.event());
      if (error == cudaErrorNotReady) return false;
      all_.fault_.expect(error);
      ok_ = error == cudaSuccess;
      return true;
    }

    CudaInputs& all_;
    const UcxLink& link_;
    const Input& input_;
    std::uint64_t tag_;
    std::coroutine_handle<> waiter_;
    bool ok_ = false;
  };

  /// Resumes the calls whose inputs are there; whether there was one.
  bool poll() {
    bool moved = false;
    for (std::size_t i = 0; i < arrivals_.size();) {
      if (follows_another(i) || !arrivals_[i]->look()) {
        ++i;
        continue;
      }
      if (fault_.there()) fault_.end_calls();
      const auto waiter = std::exchange(arrivals_[i]->waiter_, nullptr);
      arrivals_.erase(arrivals_.begin() + static_cast<std::ptrdiff_t>(i));
      waiter.resume();
      moved = true;
      i = 0;
    }
    return moved;
  }
  /// Whether a call waits.
  bool awaited() const noexcept { return !arrivals_.empty(); }

 private:
  bool follows_another(std::size_t arrival) const noexcept {
    for (std::size_t i = 0; i < arrival; ++i) {
      if (arrivals_[i]->tag_ == arrivals_[arrival]->tag_) return true;
    }
    return false;
  }

  cudaEvent_t take_event(const Where& where) {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        const cudaEvent_t event = free_.back();
        free_.pop_back();
        return event;
      }
      free_.reserve(++events_);  // so that give_event() never fails
    }
    cudaEvent_t event = nullptr;
    check_cuda(where, cudaEventCreateWithFlags(&event, cudaEventDisableTiming), {"no event to wait for the input by"});
    return event;
  }
  void give_event(cudaEvent_t event) noexcept {
    const std::lock_guard lock(mutex_);
    free_.push_back(event);
  }

  int device_;
  CudaFault& fault_;
  std::vector<Arrival*> arrivals_;
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
  std::size_t events_ = 0;
};

}  // namespace allfold
