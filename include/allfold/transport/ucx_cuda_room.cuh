// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <coroutine>
#include <exception>
#include <memory>
#include <vector>

#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>
#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/launch/cuda_gates.cuh>
#include <allfold/memory/cuda_driver.cuh>
#include <allfold/memory/cuda_pool.cuh>
#include <allfold/memory/cuda_scope.cuh>
#include <allfold/transport/ucx_cuda_inputs.cuh>
#include <allfold/transport/ucx_cuda_lanes.cuh>
#include <allfold/transport/ucx_worker.hpp>

namespace allfold {

/// Awaits what stays where it is: nvcc's co_await would copy it.
template <class A>
struct Awaited {
  A& it;

  bool await_ready() const noexcept { return it.await_ready(); }
  void await_suspend(std::coroutine_handle<> waiter) const { it.await_suspend(waiter); }
  auto await_resume() const noexcept { return it.await_resume(); }
};

/// The GPU of a rank as its calls over UCX use it: streams, pools of memory, and what waits for them. Progress polls
/// it, for a GPU resumes no coroutine. For the thread that makes progress, but where a member says otherwise.
class CudaRoom final : public UcxPoller {
 public:
  /// Of the device that is current.
  /// @throws CudaError
  ALLFOLD_COLD explicit CudaRoom(const Where& where)
      : where_("progress", where.rank(), where.world_size()),
        driver_(CudaDriver::load(where)),
        device_(current_device(where)),
        gates_(driver_, device_) {
    lanes_ = std::make_unique<CudaLanes>(where, fault_);
  }
  CudaRoom(const CudaRoom&) = delete;
  CudaRoom& operator=(const CudaRoom&) = delete;
  ~CudaRoom() {
    const CudaScope scope(device_);
    gates_.open_all();
    lanes_.reset();
  }

  int device() const noexcept { return device_; }
  const CudaDriver& driver() const noexcept { return driver_; }
  const Where& where() const noexcept { return where_; }
  CudaFault& fault() noexcept { return fault_; }
  CudaGates& gates() noexcept { return gates_; }
  CudaLanes& lanes() noexcept { return *lanes_; }
  CudaInputs& inputs() noexcept { return inputs_; }
  CudaPool& device_pool() noexcept { return device_pool_; }
  CudaPool& pinned_pool() noexcept { return pinned_pool_; }

  bool poll() override {
    gates_.beat();
    if (gates_.given_up()) blame_gates();
    bool moved = lanes_->poll();
    moved = inputs_.poll() || moved;
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

  /// While it exists, UCX works with memory of the GPU: what it waits for comes in microseconds, and to be told of it
  /// by CUDA would take longer than most messages. So progress goes without sleep for a while.
  class Awake {
   public:
    explicit Awake(CudaRoom& room) noexcept : room_(room) {
      ++room_.awake_;
      room_.moved();
    }
    Awake(const Awake&) = delete;
    Awake& operator=(const Awake&) = delete;
    ~Awake() { --room_.awake_; }

   private:
    CudaRoom& room_;
  };
  /// Something has happened.
  void moved() noexcept {
    if (awake_ != 0) last_moved_ = Clock::now();
  }

  Duration rest() const noexcept override {
    if (!ready_.empty() || lanes_->at_work()) return Duration::zero();
    if (awake_ != 0 && Clock::now() - last_moved_ < std::chrono::milliseconds(1)) return Duration::zero();
    return inputs_.awaited() ? std::chrono::microseconds(50) : Duration::max();
  }

  void settle() noexcept override {
    // The streams that wait go on anyway, and what they hold up may be what this waits for.
    if (gates_.open_all() && lanes_->at_work()) fault_.set(held_up_by_gates());
    lanes_->settle();
  }

  /// Whether lanes have something to do.
  bool at_work() const noexcept { return lanes_->at_work(); }

 private:
  static int current_device(const Where& where) {
    int device = -1;
    check_cuda(where, cudaGetDevice(&device),
               {"no GPU; expected one that CUDA can use; see nvidia-smi, or use UcxTransport for memory of the host"});
    check_cuda(where, cudaSetDevice(device), {"device ", device, " cannot be used"});
    return device;
  }

  ALLFOLD_COLD std::exception_ptr held_up_by_gates() const noexcept {
    return std::make_exception_ptr(UsageError(
        where_,
        {"a stream waits for an operation, and CUDA makes the operation wait for that stream: meanwhile a kernel ",
         "ran for the first time, or memory was freed; expected neither; set CUDA_MODULE_LOADING=EAGER and free "
         "memory later, or leave MessageOptions::cuda_gates off"}));
  }
  ALLFOLD_COLD void blame_gates() {
    fault_.set(held_up_by_gates());
    fault_.end_calls();
  }

  Where where_;
  CudaDriver driver_;
  int device_;
  CudaFault fault_{where_};
  CudaGates gates_;
  CudaInputs inputs_{device_, fault_};
  CudaPool device_pool_{CudaPool::Kind::device, device_};
  CudaPool pinned_pool_{CudaPool::Kind::pinned, device_};
  std::unique_ptr<CudaLanes> lanes_;
  std::vector<std::coroutine_handle<>> ready_;
  int awake_ = 0;
  Clock::time_point last_moved_{};
};

}  // namespace allfold
