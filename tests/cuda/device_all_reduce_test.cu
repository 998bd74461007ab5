// SPDX-License-Identifier: Apache-2.0
// All-reduces that a kernel of the user's runs: it writes its operand, has it summed, and uses the sum.
#include <chrono>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>

#include <doctest/doctest.h>
#include <unistd.h>

#include <allfold/allfold.cuh>

#include <support/gpu_all_reduce.cuh>

using namespace std::chrono_literals;
using allfold_test::RankGpu;

namespace {

using Comm = allfold::Communicator<allfold::NvlinkTransport>;
using Plan = allfold::DeviceAllReduce<allfold::Reduction<allfold::Sum, float>>;

constexpr std::size_t most = 100003;
constexpr int most_lanes = 512;

/// A small whole number, another in each step.
__device__ float pattern(std::size_t i, unsigned step) { return static_cast<float>((i * 7 + step * 11) % 1000); }

__global__ void next_step(unsigned* step) { ++*step; }

/// Every element of the sum that is not what the ranks' operands make is counted.
__global__ void __launch_bounds__(most_lanes) fused(const __grid_constant__ Plan plan, float* in, const float* out,
                                                    const unsigned* step, int rank, int world_size, unsigned* wrong) {
  const allfold::Range mine = plan.block_range(static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
  for (std::size_t i = mine.begin + threadIdx.x; i < mine.end; i += blockDim.x) {
    in[i] = pattern(i, *step) + static_cast<float>(rank);
  }
  if (!allfold::all_reduce(plan)) {
    atomicAdd(wrong, 1U);
    return;
  }
  const float ranks = static_cast<float>(world_size * (world_size - 1) / 2);
  for (std::size_t i = mine.begin + threadIdx.x; i < mine.end; i += blockDim.x) {
    if (out[i] != static_cast<float>(world_size) * pattern(i, *step) + ranks) atomicAdd(wrong, 1U);
  }
}

__global__ void __launch_bounds__(most_lanes) alone(const __grid_constant__ Plan plan, unsigned* failed) {
  if (!allfold::all_reduce(plan) && threadIdx.x == 0) atomicAdd(failed, 1U);
}

/// A word of the GPU, zero at first.
class Counter {
 public:
  explicit Counter(RankGpu& gpu) : gpu_(gpu), word_(1) {
    EXPECT_CUDA(cudaMemsetAsync(word_.data(), 0, sizeof(unsigned), gpu.stream()));
    gpu.synchronize();
  }
  unsigned* data() const noexcept { return word_.data(); }
  unsigned value() const {
    unsigned value = 0;
    gpu_.copy(&value, word_.data(), sizeof value);
    return value;
  }

 private:
  RankGpu& gpu_;
  allfold_test::DeviceField<unsigned> word_;
};

}  // namespace

TEST_CASE(
    "a kernel sums what it has just written, and uses the sum: all placements, grids and sizes, eager and replayed") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    allfold_test::DeviceField<float> a(most);
    allfold_test::DeviceField<float> b(most);
    const Counter step(gpu);
    const Counter wrong(gpu);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    const auto x = comm.allocate<float>(most);
    const auto y = comm.allocate<float>(most);
    const std::span<float> placements[][2] = {{x.span(), y.span()}, {x.span(), x.span()}, {a.span(), b.span()},
                                              {a.span(), a.span()}, {a.span(), y.span()}, {x.span(), b.span()}};
    for (const auto& [in, out] : placements) {
      for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{1000}, most}) {
        const Plan plan = comm.device_all_reduce(in.first(count), out.first(count), allfold::sum);
        for (const int blocks : {1, 7, 16}) {
          for (const int threads : {32, 96, most_lanes}) {
            const auto enqueue = [&, in = in, out = out] {
              next_step<<<1, 1, 0, gpu.stream()>>>(step.data());
              fused<<<blocks, threads, 0, gpu.stream()>>>(plan, in.data(), out.data(), step.data(), environment.rank,
                                                          environment.world_size, wrong.data());
              EXPECT_CUDA(cudaGetLastError());
            };
            for (int i = 0; i < 5; ++i) enqueue();
            gpu.synchronize();
            comm.status();
            if (wrong.value() != 0) {
              allfold_test::throw_failure(allfold::concat({wrong.value(), " elements of ", count, " are wrong, ",
                                                           blocks, " blocks of ", threads}),
                                          __FILE__, __LINE__);
            }
          }
        }
      }
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t ready = nullptr;
      const Plan plan = comm.device_all_reduce(in, out, allfold::sum);
      gpu.meet();
      EXPECT_CUDA(cudaStreamBeginCapture(gpu.stream(), cudaStreamCaptureModeThreadLocal));
      next_step<<<1, 1, 0, gpu.stream()>>>(step.data());
      fused<<<16, 256, 0, gpu.stream()>>>(plan, in.data(), out.data(), step.data(), environment.rank,
                                          environment.world_size, wrong.data());
      EXPECT_CUDA(cudaStreamEndCapture(gpu.stream(), &graph));
      EXPECT_CUDA(cudaGraphInstantiate(&ready, graph, 0));
      EXPECT_CUDA(cudaGraphUpload(ready, gpu.stream()));
      gpu.synchronize();
      gpu.meet();
      for (int i = 0; i < 100; ++i) {
        EXPECT_CUDA(cudaGraphLaunch(ready, gpu.stream()));
        // With calls of the host on the same channel between them.
        if (i % 10 == 9) comm.all_reduce(y.span().first(64), allfold::sum, {.stream = gpu.stream()});
        if (i % 20 == 19) gpu.synchronize();
      }
      comm.status();
      EXPECT(wrong.value() == 0);
      gpu.meet();
      EXPECT_CUDA(cudaGraphExecDestroy(ready));
      EXPECT_CUDA(cudaGraphDestroy(graph));
    }
  });
}

TEST_CASE("a kernel whose peer stays away gets false, and the communicator names the peer") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    allfold_test::DeviceField<float> field(1000);
    const Counter failed(gpu);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    const Plan plan = comm.device_all_reduce(field.span(), field.span(), allfold::sum, {.timeout = 400ms});
    gpu.meet();
    if (environment.rank == 1) {
      ::usleep(1200000);
    } else {
      alone<<<4, 64, 0, gpu.stream()>>>(plan, failed.data());
      EXPECT_CUDA(cudaGetLastError());
      EXPECT(failed.value() == 4);
      allfold_test::expect_contains(EXPECT_THROWS_AS(comm.status(), allfold::TimeoutError),
                                    {"rank 1 did not arrive", "all_reduce of 1000 float"});
    }
    gpu.meet();
    EXPECT_THROWS_AS(comm.status(), allfold::TimeoutError);
    gpu.meet();
  });
}

TEST_CASE("a grid that cannot meet its peers' is refused at once, on every rank") {
  NEEDS_GPU();
  struct Grid {
    dim3 blocks, threads;
  };
  const Grid grids[] = {{dim3(9), dim3(64)}, {dim3(2), dim3(40)}, {dim3(2, 2), dim3(64)}, {dim3(2), dim3(32, 2)}};
  for (const Grid& grid : grids) {
    allfold_test::over_gpus({2}, [&](const allfold::Environment& environment, RankGpu& gpu) {
      allfold_test::DeviceField<float> field(1000);
      const Counter failed(gpu);
      allfold::Options options = allfold_test::gpu_options();
      options.blocks = 8;
      Comm comm = Comm::create(environment, options);
      const Plan plan = comm.device_all_reduce(field.span(), field.span(), allfold::sum);
      EXPECT(plan.most_blocks <= 8);
      gpu.meet();
      const auto begin = allfold::Clock::now();
      alone<<<grid.blocks, grid.threads, 0, gpu.stream()>>>(plan, failed.data());
      EXPECT_CUDA(cudaGetLastError());
      EXPECT(failed.value() >= grid.blocks.x * grid.blocks.y);
      EXPECT(allfold::Clock::now() - begin < 5s);
      const std::string message = EXPECT_THROWS_AS(comm.status(), allfold::UsageError);
      allfold_test::expect_contains(message, {"all_reduce of 1000 float", "another grid", "most_blocks", "32 to 512"});
      gpu.meet();
    });
  }
}

TEST_CASE("a rank whose kernel has another grid, or that calls all_reduce itself, is a mismatch") {
  NEEDS_GPU();
  for (const bool on_host : {false, true}) {
    allfold_test::over_gpus({2, 3}, [&](const allfold::Environment& environment, RankGpu& gpu) {
      allfold_test::DeviceField<float> field(1000);
      const Counter failed(gpu);
      Comm comm = Comm::create(environment, allfold_test::gpu_options());
      const Plan plan = comm.device_all_reduce(field.span(), field.span(), allfold::sum);
      const auto begin = allfold::Clock::now();
      if (environment.rank == 1 && on_host) {
        comm.all_reduce(field.span(), allfold::sum, {.stream = gpu.stream()});
      } else {
        alone<<<environment.rank == 1 ? 8 : 4, 64, 0, gpu.stream()>>>(plan, failed.data());
        EXPECT_CUDA(cudaGetLastError());
        EXPECT(failed.value() != 0);
      }
      gpu.synchronize();
      EXPECT(allfold::Clock::now() - begin < 10s);
      const std::string message = EXPECT_THROWS_AS(comm.status(), allfold::MismatchError);
      allfold_test::expect_contains(message,
                                    {"all_reduce of 1000 float", "rank 1", on_host ? "packet" : "another grid"});
      gpu.meet();
    });
  }
}
