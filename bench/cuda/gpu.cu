// SPDX-License-Identifier: Apache-2.0

#include "gpu.cuh"

#include <algorithm>
#include <chrono>

#include <sys/wait.h>
#include <unistd.h>

#include "field.hpp"

namespace bench {
namespace {

/// Of the GPUs from the first on, how many reach one another's memory.
int count_in_reach() {
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess) return 0;
  gpus = std::min(gpus, allfold::max_window_ranks);
  for (int a = 1; a < gpus; ++a) {
    for (int b = 0; b < a; ++b) {
      int there = 0, back = 0;
      cudaDeviceCanAccessPeer(&there, a, b);
      cudaDeviceCanAccessPeer(&back, b, a);
      if (there == 0 || back == 0) return a;
    }
  }
  return gpus;
}

int choose_gpu(const allfold::Environment& environment) {
  int gpus = 0;
  check_cuda(cudaGetDeviceCount(&gpus), "cudaGetDeviceCount");
  // With more ranks than GPUs the communicator says whether that is meant.
  const int device = environment.local_rank % gpus;
  check_cuda(cudaSetDevice(device), "cudaSetDevice");
  return device;
}

CudaStream make_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return CudaStream(stream);
}

CudaEvent make_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  return CudaEvent(event);
}

}  // namespace

const bool built_with_cuda = true;

int gpus_in_reach() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(count_in_reach());
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 0;
  return WEXITSTATUS(status);
}

Gpu::Gpu(const allfold::Environment& environment, const Plan& plan, Comm& comm)
    : plan_(plan),
      comm_(comm),
      device_(choose_gpu(environment)),
      whole_numbers_(plan.whole_numbers()),
      stream_(make_stream()),
      begin_(make_event()),
      end_(make_event()),
      private_in_(make_cuda_memory(plan.max_bytes)),
      private_out_(make_cuda_memory(plan.max_bytes)),
      counter_(make_cuda_memory(sizeof(std::uint64_t))) {}

std::string Gpu::about() const {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device_), "cudaGetDeviceProperties");
  int runtime = 0, driver = 0;
  check_cuda(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  check_cuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  const auto version = [](int number) {
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
  };
  return std::string(properties.name) + ", CUDA " + version(runtime) + ", driver's " + version(driver);
}

void Gpu::wait() const {
  const auto latest = plan_.deadline.at() + std::chrono::seconds(20);
  for (;;) {
    const cudaError_t status = cudaStreamQuery(stream_.get());
    if (status != cudaErrorNotReady) return check_cuda(status, "a call on the GPU");
    if (allfold::Clock::now() >= latest) {
      throw std::runtime_error("allfold_perf: rank " + std::to_string(comm_.rank()) +
                               "'s GPU is still at work, and the time is up; try fewer sizes or a longer --timeout");
    }
  }
}

}  // namespace bench
