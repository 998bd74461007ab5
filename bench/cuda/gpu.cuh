// SPDX-License-Identifier: Apache-2.0
#pragma once

/// CUDA as the benchmark uses it: errors as exceptions, owners for what CUDA makes, and this rank's GPU.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include <cuda_runtime.h>

#include <allfold/base/environment.hpp>

#include "../host_subject.hpp"
#include "../plan.hpp"

namespace bench {

inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  throw std::runtime_error(std::string("allfold_perf: ") + what + ": " + cudaGetErrorString(status));
}

/// Owners.
template <auto destroy>
struct Destroy {
  template <class T>
  void operator()(T* handle) const noexcept {
    destroy(handle);
  }
};
using CudaStream = std::unique_ptr<CUstream_st, Destroy<cudaStreamDestroy>>;
using CudaEvent = std::unique_ptr<CUevent_st, Destroy<cudaEventDestroy>>;
using CudaGraph = std::unique_ptr<CUgraph_st, Destroy<cudaGraphDestroy>>;
using CudaGraphExec = std::unique_ptr<CUgraphExec_st, Destroy<cudaGraphExecDestroy>>;
using CudaMemory = std::unique_ptr<void, Destroy<cudaFree>>;

inline CudaMemory make_cuda_memory(std::size_t bytes) {
  void* data = nullptr;
  check_cuda(cudaMalloc(&data, bytes), "cudaMalloc");
  return CudaMemory(data);
}

/// This rank's GPU, the calling thread's current one from here on: a stream, two events, and memory of the rank's own.
class Gpu {
 public:
  Gpu(const allfold::Environment& environment, const Plan& plan, Comm& comm);

  /// Of the rank: the host threads of all ranks meet and compare through it.
  Comm& comm() const noexcept { return comm_; }
  const Plan& plan() const noexcept { return plan_; }
  std::string about() const;
  cudaStream_t stream() const noexcept { return stream_.get(); }
  cudaEvent_t begin() const noexcept { return begin_.get(); }
  cudaEvent_t end() const noexcept { return end_.get(); }
  /// Operands in memory that cudaMalloc gave.
  void* private_in() const noexcept { return private_in_.get(); }
  void* private_out() const noexcept { return private_out_.get(); }
  /// Whether operands are whole numbers, for all contestants alike, since they share memory.
  bool whole_numbers() const noexcept { return whole_numbers_; }
  void use_whole_numbers() noexcept { whole_numbers_ = true; }
  std::uint64_t* counter() const noexcept { return static_cast<std::uint64_t*>(counter_.get()); }

  /// Returns when the stream is idle.
  /// @throws std::runtime_error past the run's deadline, and some time for the size that is under way.
  void wait() const;

 private:
  const Plan& plan_;
  Comm& comm_;
  int device_;
  bool whole_numbers_;
  CudaStream stream_;
  CudaEvent begin_, end_;
  CudaMemory private_in_, private_out_, counter_;
};

}  // namespace bench
