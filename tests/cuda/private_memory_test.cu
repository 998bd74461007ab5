// SPDX-License-Identifier: Apache-2.0
// Memory of the caller's that is not symmetric: what the GPU reaches is taken, the rest is refused with a reason.
#include <cstddef>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include <cuda_runtime.h>
#include <doctest/doctest.h>

#include <allfold/allfold.cuh>

#include <support/gpu_all_reduce.cuh>

using allfold::Algorithm;
using allfold_test::RankGpu;

namespace {

using Comm = allfold::Communicator<allfold::NvlinkTransport, allfold::FixedSelector<Algorithm::two_shot>>;

constexpr std::size_t count = 1000;

bool reaches_pageable(const RankGpu& gpu) {
  int pageable = 0;
  EXPECT_CUDA(cudaDeviceGetAttribute(&pageable, cudaDevAttrPageableMemoryAccess, gpu.device()));
  return pageable != 0;
}

void fill(std::span<float> field, float value, RankGpu& gpu) {
  const std::vector<float> host(field.size(), value);
  gpu.copy(field.data(), host.data(), field.size_bytes());
}

/// All-reduces ones, in place, and checks the sums.
void expect_taken(Comm& comm, std::span<float> field, RankGpu& gpu) {
  fill(field, 1, gpu);
  comm.all_reduce(field, allfold::sum, {.stream = gpu.stream()});
  std::vector<float> sums(field.size());
  gpu.copy(sums.data(), field.data(), field.size_bytes());
  comm.status();
  EXPECT(sums == std::vector<float>(field.size(), static_cast<float>(comm.world_size())));
}

}  // namespace

TEST_CASE("host memory that the GPU does not reach is refused, and everything works as before") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    allfold_test::DeviceField<float> field(count);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    std::vector<float> host(count, 1);
    const allfold::CallOptions options{.stream = gpu.stream()};
    if (reaches_pageable(gpu)) return expect_taken(comm, host, gpu);
    const std::string device = allfold::concat({"expected memory of device ", gpu.device()});
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.all_reduce(host, allfold::sum, options), allfold::UsageError),
                                  {"all_reduce", "the input is host memory that the GPU cannot reach", device.c_str(),
                                   "try cudaMalloc on that device, or allocate"});
    allfold_test::expect_contains(
        EXPECT_THROWS_AS(comm.all_reduce(field.span(), host, allfold::sum, options), allfold::UsageError),
        {"the output is host memory"});
    EXPECT_THROWS_AS(comm.all_reduce(host, field.span(), allfold::sum, options), allfold::UsageError);
    EXPECT_THROWS_AS(comm.device_all_reduce(host, field.span(), allfold::sum, options), allfold::UsageError);
    // No elements are no memory.
    comm.all_reduce(std::span<float>(host).first(0), allfold::sum, options);
    gpu.synchronize();
    EXPECT_CUDA(cudaGetLastError());
    expect_taken(comm, field.span(), gpu);
    gpu.meet();
  });
}

TEST_CASE("the same while a graph is captured, which goes on") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    if (reaches_pageable(gpu)) return;
    allfold_test::DeviceField<float> field(count);
    fill(field.span(), 1, gpu);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    std::vector<float> host(count, 1);
    const allfold::CallOptions options{.stream = gpu.stream()};
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    EXPECT_CUDA(cudaStreamBeginCapture(gpu.stream(), cudaStreamCaptureModeThreadLocal));
    comm.all_reduce(field.span(), allfold::sum, options);
    EXPECT_THROWS_AS(comm.all_reduce(host, allfold::sum, options), allfold::UsageError);
    comm.all_reduce(field.span(), allfold::sum, options);
    EXPECT_CUDA(cudaStreamEndCapture(gpu.stream(), &graph));
    EXPECT_CUDA(cudaGraphInstantiate(&ready, graph, 0));
    gpu.meet();
    EXPECT_CUDA(cudaGraphLaunch(ready, gpu.stream()));
    std::vector<float> sums(count);
    gpu.copy(sums.data(), field.data(), count * sizeof(float));
    comm.status();
    const int world_size = comm.world_size();
    EXPECT(sums == std::vector<float>(count, static_cast<float>(world_size * world_size)));
    gpu.meet();
    EXPECT_CUDA(cudaGraphExecDestroy(ready));
    EXPECT_CUDA(cudaGraphDestroy(graph));
  });
}

TEST_CASE("memory of another device is refused, even where peer access would reach it") {
  NEEDS_GPU();
  if (allfold_test::usable_gpus() < 2) SKIP_CASE("there is one GPU, and this case wants memory of another");
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    int devices = 0;
    EXPECT_CUDA(cudaGetDeviceCount(&devices));
    const int other = (gpu.device() + 1) % devices;
    float* there = nullptr;
    EXPECT_CUDA(cudaSetDevice(other));
    EXPECT_CUDA(cudaMalloc(&there, count * sizeof(float)));
    EXPECT_CUDA(cudaSetDevice(gpu.device()));
    allfold_test::DeviceField<float> field(count);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    const std::string message = EXPECT_THROWS_AS(
        comm.all_reduce(std::span(there, count), allfold::sum, {.stream = gpu.stream()}), allfold::UsageError);
    allfold_test::expect_contains(message, {allfold::concat({"the input is memory of device ", other}).c_str(),
                                            allfold::concat({"expected memory of device ", gpu.device()}).c_str()});
    expect_taken(comm, field.span(), gpu);
    gpu.meet();
    EXPECT_CUDA(cudaFree(there));
  });
}

TEST_CASE("pinned, registered, managed and stream-ordered memory are taken") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t bytes = count * sizeof(float);
    allfold_test::PinnedField<float> pinned(count);
    std::vector<float> registered(count);
    EXPECT_CUDA(cudaHostRegister(registered.data(), bytes, cudaHostRegisterDefault));
    float* managed = nullptr;
    EXPECT_CUDA(cudaMallocManaged(&managed, bytes));
    float* ordered = nullptr;
    EXPECT_CUDA(cudaMallocAsync(&ordered, bytes, gpu.stream()));
    gpu.synchronize();
    {
      Comm comm = Comm::create(environment, allfold_test::gpu_options());
      for (float* const field : {pinned.data(), registered.data(), managed, ordered}) {
        expect_taken(comm, {field, count}, gpu);
      }
      gpu.meet();
    }
    EXPECT_CUDA(cudaFreeAsync(ordered, gpu.stream()));
    gpu.synchronize();
    EXPECT_CUDA(cudaFree(managed));
    EXPECT_CUDA(cudaHostUnregister(registered.data()));
  });
}
