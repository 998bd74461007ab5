// SPDX-License-Identifier: Apache-2.0
// What cannot be registered is refused on all ranks, with a reason that names the rank, and everything works as before.
#include <algorithm>
#include <csignal>
#include <cstddef>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <cuda_runtime.h>
#include <doctest/doctest.h>
#include <unistd.h>

#include <allfold/allfold.cuh>

#include <support/gpu_all_reduce.cuh>

using allfold::Algorithm;
using allfold_test::DeviceField;
using allfold_test::RankGpu;

namespace {

using Comm = allfold::Communicator<allfold::NvlinkTransport, allfold::FixedSelector<Algorithm::two_shot>>;
using Buffer = Comm::buffer_type<float>;

constexpr std::size_t count = 1000;
constexpr std::size_t bytes = count * sizeof(float);

void expect_works(Comm& comm, std::span<float> field, RankGpu& gpu) {
  std::vector<float> host(field.size(), 1);
  EXPECT_CUDA(cudaMemcpyAsync(field.data(), host.data(), field.size_bytes(), cudaMemcpyDefault, gpu.stream()));
  const allfold::CallOptions options{.stream = gpu.stream()};
  comm.all_reduce(field, allfold::sum, options);
  gpu.copy(host.data(), field.data(), field.size_bytes());
  comm.status();
  EXPECT(host == std::vector<float>(field.size(), static_cast<float>(comm.world_size())));
}

/// Drops a buffer on every rank, so that the memory may be freed.
void drop(Buffer& buffer, RankGpu& gpu) {
  buffer = Buffer();
  gpu.meet();
}

/// Rank 1 registers `bad`, and the others memory that would do.
void expect_refused(Comm& comm, std::span<float> bad, RankGpu& gpu, const char* reason) {
  DeviceField<float> good(std::max(count, bad.size()));
  std::string message;
  if (comm.rank() == 1) {
    message = EXPECT_THROWS_AS(comm.register_buffer(bad), allfold::UsageError);
  } else {
    message = EXPECT_THROWS_AS(comm.register_buffer(good.span().first(bad.size())), allfold::PeerError);
    allfold_test::expect_contains(message, {"rank 1 gave up"});
  }
  allfold_test::expect_contains(message, {"register_buffer", reason});
  EXPECT_CUDA(cudaGetLastError());
  comm.status();
  Buffer buffer = comm.register_buffer(good.span());
  expect_works(comm, buffer.span(), gpu);
  gpu.meet();
  drop(buffer, gpu);
}

}  // namespace

TEST_CASE("memory of the host, managed memory and none at all") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    std::vector<float> host(count);
    allfold_test::PinnedField<float> pinned(count);
    float* managed = nullptr;
    EXPECT_CUDA(cudaMallocManaged(&managed, bytes));
    {
      Comm comm = Comm::create(environment, allfold_test::gpu_options());
      expect_refused(comm, host, gpu, "the range is memory of the host; expected memory of cudaMalloc on device");
      expect_refused(comm, {pinned.data(), count}, gpu, "the range is memory of the host");
      expect_refused(comm, {managed, count}, gpu, "the range is managed memory");
      expect_refused(comm, {static_cast<float*>(nullptr), count}, gpu, "the range is null");
    }
    EXPECT_CUDA(cudaFree(managed));
  });
}

TEST_CASE("memory that CUDA's IPC does not share: of a pool, and of virtual memory management") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    float* ordered = nullptr;
    EXPECT_CUDA(cudaMallocAsync(&ordered, bytes, gpu.stream()));
    gpu.synchronize();
    allfold::DeviceMemory virtual_memory(allfold::CudaDriver::load("test"), gpu.device());
    virtual_memory.create("test", bytes);
    {
      Comm comm = Comm::create(environment, allfold_test::gpu_options());
      expect_refused(comm, {ordered, count}, gpu, "cannot share by IPC");
      expect_refused(comm, {static_cast<float*>(virtual_memory.data()), count}, gpu, "cannot share by IPC");
    }
    EXPECT_CUDA(cudaFreeAsync(ordered, gpu.stream()));
    gpu.synchronize();
  });
}

TEST_CASE("a range that is longer than its allocation") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    DeviceField<float> field(count);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    expect_refused(comm, {field.data() + 1, std::size_t{1} << 21}, gpu,
                   "the range is 8388608 bytes, of which the allocation that it begins in holds");
  });
}

TEST_CASE("a range without elements is refused on every rank") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    DeviceField<float> field(count);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.register_buffer(field.span().first(0)), allfold::UsageError),
                                  {"the range is empty"});
    gpu.meet();
    expect_refused(comm, {static_cast<float*>(nullptr), count}, gpu, "null");
  });
}

TEST_CASE("memory of another device") {
  NEEDS_GPU();
  if (allfold_test::usable_gpus() < 2) SKIP_CASE("there is one GPU, and this case wants memory of another");
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    int devices = 0;
    EXPECT_CUDA(cudaGetDeviceCount(&devices));
    const int other = (gpu.device() + 1) % devices;
    float* there = nullptr;
    EXPECT_CUDA(cudaSetDevice(other));
    EXPECT_CUDA(cudaMalloc(&there, bytes));
    EXPECT_CUDA(cudaSetDevice(gpu.device()));
    {
      Comm comm = Comm::create(environment, allfold_test::gpu_options());
      // Rank 1's GPU is device 1.
      expect_refused(comm, {there, count}, gpu,
                     allfold::concat({"the range is memory of device ", 2 % devices}).c_str());
    }
    gpu.meet();
    EXPECT_CUDA(cudaFree(there));
  });
}

TEST_CASE("what is symmetric already, and what overlaps it") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    DeviceField<float> field(count);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    Buffer symmetric = comm.allocate<float>(count);
    Buffer buffer = comm.register_buffer(field.span().subspan(10, 100));
    for (const std::span<float> range : {symmetric.span(), symmetric.span().first(3), field.span().subspan(10, 99),
                                         field.span().subspan(20, 10), field.span().subspan(109, 5)}) {
      allfold_test::expect_contains(EXPECT_THROWS_AS(comm.register_buffer(range), allfold::UsageError),
                                    {"register_buffer", "begins in symmetric allocation", "use that buffer"});
      gpu.meet();
    }
    EXPECT_THROWS_AS(comm.register_buffer(field.span().first(50)), allfold::UsageError);
    gpu.meet();
    expect_works(comm, buffer.span(), gpu);
    expect_works(comm, symmetric.span(), gpu);
    gpu.meet();
    drop(buffer, gpu);
  });
}

TEST_CASE("ranks that ask for different things") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    DeviceField<float> field(count);
    DeviceField<int> integers(count);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    const bool other = environment.rank == 1;
    allfold_test::expect_contains(
        EXPECT_THROWS_AS(comm.register_buffer(field.span().first(other ? 10 : 11)), allfold::MismatchError),
        {"register_buffer of 10 float", "register_buffer of 11 float", "rank 1"});
    gpu.meet();
    const auto of_types = [&] {
      if (other) {
        static_cast<void>(comm.register_buffer(integers.span()));
      } else {
        static_cast<void>(comm.register_buffer(field.span()));
      }
    };
    allfold_test::expect_contains(EXPECT_THROWS_AS(of_types(), allfold::MismatchError), {"1000 float", "1000 int32"});
    gpu.meet();
    const auto of_operations = [&] {
      if (other) {
        static_cast<void>(comm.allocate<float>(count));
      } else {
        static_cast<void>(comm.register_buffer(field.span()));
      }
    };
    allfold_test::expect_contains(EXPECT_THROWS_AS(of_operations(), allfold::MismatchError),
                                  {"allocate of 1000 float", "register_buffer of 1000 float"});
    gpu.meet();
    // One rank has dropped its buffer, and the others have not.
    Buffer former = comm.register_buffer(field.span());
    if (other) former = Buffer();
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.register_buffer(field.span()), allfold::MismatchError),
                                  {"ranks disagree on whether the range is registered", "not at all"});
    gpu.meet();
    drop(former, gpu);
    Buffer buffer = comm.register_buffer(field.span());
    expect_works(comm, buffer.span(), gpu);
    gpu.meet();
    drop(buffer, gpu);
  });
}

TEST_CASE("buffers, communicators and memory may go in any order that frees the memory last") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    for (int round = 0; round < 2; ++round) {
      DeviceField<float> field(count);
      std::optional<Comm> comm(Comm::create(environment, allfold_test::gpu_options()));
      std::optional<Buffer> first(comm->register_buffer(field.span().first(500)));
      std::optional<Buffer> second(comm->register_buffer(field.span().subspan(500)));
      expect_works(*comm, first->span(), gpu);
      gpu.meet();
      if ((environment.rank + round) % 2 == 0) {
        comm.reset();
        second.reset();
        first.reset();
      } else {
        first.reset();
        comm.reset();
        second.reset();
      }
      gpu.meet();
    }
  });
}

TEST_CASE("a rank that is gone leaves the others' buffers to be dropped, and CUDA lives") {
  NEEDS_GPU();
  const int gpus = allfold_test::usable_gpus();
  const int world_size = gpus > 2 ? 3 : 2;
  const allfold_test::GpuLayout layout{.world_size = world_size, .ranks = allfold::Ranks::processes, .gpus = gpus};
  allfold_test::HostMeeting meeting(world_size);
  const auto body = [&](const allfold::Environment& environment) {
    allfold_test::detail::prepare_process(layout);
    RankGpu gpu(layout.device_of(environment.rank), &meeting);
    DeviceField<float> field(count);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    std::optional<Buffer> buffer(comm.register_buffer(field.span()));
    expect_works(comm, buffer->span(), gpu);
    gpu.meet();
    if (environment.rank == 1) ::raise(SIGKILL);
    ::usleep(300000);
    buffer.reset();
    EXPECT_CUDA(cudaGetLastError());
    EXPECT_CUDA(cudaMemset(field.data(), 0, bytes));
    EXPECT_CUDA(cudaDeviceSynchronize());
  };
  for (const allfold::Outcome& outcome :
       allfold::launch_outcomes(world_size, body, {.timeout = allfold_test::rank_timeout})) {
    CAPTURE(outcome.rank);
    if (outcome.rank == 1) {
      CHECK(outcome.signal == SIGKILL);
    } else {
      CHECK(outcome.error == "");
      CHECK(outcome.ok());
    }
  }
}
