// SPDX-License-Identifier: Apache-2.0
// Calls over messages on memory of GPUs, which ranks share where there are too few.
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>
#include <unistd.h>

#include <allfold/ucx.cuh>

#include <support/device_messages.hpp>
#include <support/gpu_oracle.cuh>
#include <support/gpu_ranks.cuh>
#include <support/ranks.hpp>
#include <support/skip.hpp>

using namespace std::chrono_literals;
using allfold::CudaWay;
using allfold_test::DeviceVector;
using allfold_test::element;
using allfold_test::RankGpu;
using allfold_test::same_values;
using allfold_test::values_of;

namespace {

using CallerComm = allfold::Communicator<allfold::UcxCudaTransport>;
using ThreadComm = allfold::Communicator<allfold::UcxCudaThreadTransport>;

/// Chunks so short that a test of some ten thousand elements has many.
allfold::MessageOptions message_options(CudaWay way) { return {.linger = 2s, .cuda = way, .cuda_chunk_bytes = 16384}; }

void take_ways(const char* ways) { *ways == '\0' ? ::unsetenv("UCX_TLS") : ::setenv("UCX_TLS", ways, 1); }

/// Whether UCX knows CUDA here, asked in a child process.
bool ucx_knows_cuda() {
  static const bool knows = [] {
    take_ways("");
    const auto outcomes = allfold::launch_outcomes(1,
                                                   [](const allfold::Environment& environment) {
                                                     const RankGpu gpu(0, nullptr);
                                                     CallerComm::create(environment, message_options(CudaWay::direct));
                                                   },
                                                   {.timeout = 60s});
    return outcomes[0].ok();
  }();
  return knows;
}

/// Runs `body(communicator, gpu)` in a process a rank: over TCP with progress by the caller, and over what UCX takes on
/// one host with a thread.
template <class Body>
void over_ucx_gpus(std::initializer_list<int> world_sizes, CudaWay way, Body&& body,
                   const allfold::MessageOptions& options,
                   const allfold::SourceLocation& at = allfold::SourceLocation::current()) {
  allfold::MessageOptions mine = options;
  mine.cuda = way;
  const auto run = [&](auto create, const char* ways) {
    take_ways(ways);
    for (const int world_size : world_sizes) {
      const auto rank = [&](const allfold::Environment& environment, RankGpu& gpu) {
        auto comm = create(environment);
        body(comm, gpu);
      };
      if (!allfold_test::run_on_gpus({world_size, allfold::Ranks::processes, allfold_test::usable_gpus()}, rank,
                                     allfold_test::rank_timeout, at)) {
        return;
      }
    }
  };
  const auto of_caller = [&](const allfold::Environment& environment) {
    return CallerComm::create(environment, allfold_test::gpu_options(), mine);
  };
  const auto of_thread = [&](const allfold::Environment& environment) {
    return ThreadComm::create(environment, allfold_test::gpu_options(), mine);
  };
  run(of_caller, way == CudaWay::staged || !ucx_knows_cuda() ? "tcp" : "tcp,cuda_copy");
  run(of_thread, "");
}

template <class Body>
void over_ucx_gpus(std::initializer_list<int> world_sizes, CudaWay way, Body&& body,
                   const allfold::SourceLocation& at = allfold::SourceLocation::current()) {
  over_ucx_gpus(world_sizes, way, body, message_options(way), at);
}

const auto every_collective = [](auto& comm, RankGpu&) {
  const auto ranks = static_cast<std::size_t>(comm.world_size());
  for (const std::size_t count : {ranks, 1000 * ranks, 4096 * ranks, 9001 * ranks}) {
    allfold_test::every_device_reduction<float>(comm, allfold::sum, count);
    allfold_test::every_device_reduction<std::int32_t>(comm, allfold::max, count);
    allfold_test::every_device_reduction<__nv_bfloat16>(comm, allfold::sum, count);
    allfold_test::every_device_reduction<allfold::float16>(comm, allfold::avg, count);
  }
  allfold_test::every_device_reduction<double>(comm, allfold::premul_sum(3.0), 999 * ranks);
  allfold_test::every_device_reduction<std::uint8_t>(comm, allfold::bxor, 20001 * ranks);
  for (const std::size_t each : {0, 1, 1000, 4096, 9001}) {
    allfold_test::every_device_motion<std::int32_t>(comm, each);
  }
};

/// Keeps a GPU busy for about so many nanoseconds.
__global__ void pass_time(std::uint64_t ns) {
  std::uint64_t begin = 0;
  std::uint64_t now = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - begin < ns);
}

__global__ void write_values(float* to, const float* from, std::size_t n) {
  for (std::size_t i = threadIdx.x; i < n; i += blockDim.x) to[i] = from[i];
}

/// Nobody runs it before.
__global__ void write_first(float* to) { *to = 1; }

}  // namespace

TEST_CASE("every collective on memory of a GPU, staged, has the oracle's bits") {
  NEEDS_GPU();
  over_ucx_gpus({1, 2, 3, 4}, CudaWay::staged, every_collective);
}

TEST_CASE("every collective on memory of a GPU, as UCX takes it, has the oracle's bits") {
  NEEDS_GPU();
  if (!ucx_knows_cuda()) SKIP_CASE("UCX knows no CUDA here");
  over_ucx_gpus({2, 3, 4}, CudaWay::direct, every_collective);
}

TEST_CASE("long vectors go in pieces, staged and as UCX takes them, and memory comes again at one address") {
  NEEDS_GPU();
  for (const CudaWay way : {CudaWay::staged, CudaWay::automatic}) {
    allfold::MessageOptions options = message_options(way);
    options.cuda_chunk_bytes = std::size_t{256} << 10;
    over_ucx_gpus(
        {2, 3}, way,
        [](auto& comm, RankGpu&) {
          for (const std::size_t mib : {40, 7, 40, 72}) {
            const std::size_t count = (mib << 18) + 1;
            std::vector<std::int32_t> mine(count), want(count);
            for (std::size_t i = 0; i < count; ++i) {
              const auto x = static_cast<std::int32_t>(i * mib);
              mine[i] = x + comm.rank();
              want[i] = x * comm.world_size() + comm.world_size() * (comm.world_size() - 1) / 2;
            }
            DeviceVector<std::int32_t> data(mine);
            comm.all_reduce(data, allfold::sum);
            EXPECT(same_values(data, want));
            data = mine;
            comm.broadcast(data, {.root = 1});
            EXPECT(data.host()[count - 1] == mine[count - 1] - comm.rank() + 1);
          }
        },
        options);
  }
}

TEST_CASE("memory of CUDA's pools is taken as well") {
  NEEDS_GPU();
  over_ucx_gpus({2}, CudaWay::automatic, [](auto& comm, RankGpu& gpu) {
    for (const std::size_t count : {100, 50000, 3000000}) {
      const auto values = values_of<float>(comm.rank(), count);
      float* data = nullptr;
      EXPECT_CUDA(cudaMallocAsync(reinterpret_cast<void**>(&data), count * sizeof(float), gpu.stream()));
      EXPECT_CUDA(cudaMemcpyAsync(data, values.data(), count * sizeof(float), cudaMemcpyDefault, gpu.stream()));
      comm.all_reduce(std::span(data, count), allfold::sum, {.stream = gpu.stream()});
      std::vector<float> sums(count);
      EXPECT_CUDA(cudaMemcpyAsync(sums.data(), data, count * sizeof(float), cudaMemcpyDefault, gpu.stream()));
      EXPECT_CUDA(cudaFreeAsync(data, gpu.stream()));
      gpu.synchronize();
      const auto want = allfold_test::folded_values<float>(allfold::sum, 2, count);
      EXPECT(same_values(std::span<const float>(sums), std::span<const float>(want)));
    }
  });
}

TEST_CASE("direct where UCX knows no CUDA is an error") {
  NEEDS_GPU();
  take_ways("tcp");  // even a UCX that was built with CUDA has no part of it then
  allfold_test::run_on_gpus(
      {2, allfold::Ranks::processes, allfold_test::usable_gpus()},
      [](const allfold::Environment& environment, RankGpu&) {
        const std::string what =
            EXPECT_THROWS_AS(CallerComm::create(environment, message_options(CudaWay::direct)), allfold::UsageError);
        allfold_test::expect_contains(what, {"knows no CUDA", "staged"});
      },
      allfold_test::rank_timeout, allfold::SourceLocation::current());
}

TEST_CASE("messages with one tag arrive in their order, of any size, staged and as UCX takes them") {
  NEEDS_GPU();
  for (const CudaWay way : {CudaWay::staged, CudaWay::automatic}) {
    over_ucx_gpus({2, 3}, way, [](auto& comm, RankGpu&) {
      allfold_test::every_device_message(comm, 36864);
      allfold_test::every_device_message(comm, 4096);
      allfold_test::every_device_message(comm, 1 << 20);
    });
  }
}

TEST_CASE("calls that ranks compare beforehand, and calls on memory of the host") {
  NEEDS_GPU();
  allfold::MessageOptions options = message_options(CudaWay::staged);
  options.check_calls = true;
  over_ucx_gpus(
      {3}, CudaWay::staged,
      [](auto& comm, RankGpu&) {
        allfold_test::every_device_reduction<float>(comm, allfold::sum, 3000);
        std::vector<float> host(1000, 1.0F);
        comm.all_reduce(host, allfold::sum);
        EXPECT(host[999] == 3.0F);
        DeviceVector<float> device(1000);
        const auto differ = [&] {
          comm.rank() == 0 ? comm.all_reduce(device, allfold::sum) : comm.all_reduce(host, allfold::sum);
        };
        const std::string what = EXPECT_THROWS_AS(differ(), allfold::MismatchError);
        allfold_test::expect_contains(what, {"memory of a GPU", "memory of the host"});
      },
      options);
}

TEST_CASE("a call waits for what its stream does before it, and a stream for the call") {
  NEEDS_GPU();
  over_ucx_gpus({2, 3}, CudaWay::automatic, [](auto& comm, RankGpu& gpu) {
    constexpr std::size_t count = 200000;
    const DeviceVector<float> source(values_of<float>(comm.rank(), count));
    DeviceVector<float> x(count), y(count);
    const auto want = allfold_test::folded_values<float>(allfold::sum, comm.world_size(), count);
    for (int i = 0; i < 10; ++i) {
      x.fill(-1);
      y.fill(-1);
      pass_time<<<1, 1, 0, gpu.stream()>>>(20'000'000);
      write_values<<<1, 512, 0, gpu.stream()>>>(x.data(), source.data(), count);
      const allfold::Work work = comm.all_reduce(x, allfold::sum, {.stream = gpu.stream(), .async = true});
      work.wait(gpu.stream(1));
      write_values<<<1, 512, 0, gpu.stream(1)>>>(y.data(), x.data(), count);
      EXPECT_CUDA(cudaGetLastError());
      gpu.synchronize(1);
      EXPECT(same_values(y, want));
      EXPECT(work.over() && work.error() == nullptr);
    }
  });
}

TEST_CASE("with a thread the host does not wait where a stream does, in first calls too") {
  NEEDS_GPU();
  take_ways("");
  for (const CudaWay way : {CudaWay::staged, CudaWay::automatic}) {  // the host waits with direct
    allfold_test::run_on_gpus(
        {2, allfold::Ranks::processes, allfold_test::usable_gpus()},
        [way](const allfold::Environment& environment, RankGpu& gpu) {
          allfold::MessageOptions options = message_options(way);
          options.cuda_gates = true;
          auto comm = ThreadComm::create(environment, allfold_test::gpu_options(), options);
          const auto stays_behind = [&](auto one) {
            using T = decltype(one);
            constexpr std::size_t count = 300000;
            DeviceVector<T> x(std::vector<T>(count, one));
            pass_time<<<1, 1, 0, gpu.stream()>>>(200'000'000);
            const allfold::Work work = comm.all_reduce(x, allfold::sum, {.stream = gpu.stream(), .async = true});
            work.wait(gpu.stream(1));
            EXPECT(work.over() == comm.transport().link().direct());
            gpu.synchronize(1);
            EXPECT(work.error() == nullptr);
            EXPECT(x.host()[count - 1] == one + one);
          };
          stays_behind(1.0F);
          stays_behind(std::int32_t{1});
          // The kernels of the second are loaded when the stream no longer waits for the first.
          DeviceVector<float> a(std::vector<float>(1000, 1.0F));
          DeviceVector<double> b(std::vector<double>(1000, 1.0));
          comm.barrier();
          const allfold::Work first = comm.all_reduce(a, allfold::sum, {.async = true});
          first.wait(gpu.stream(1));
          const allfold::Work second = comm.all_reduce(b, allfold::max, {.async = true});
          second.wait(gpu.stream(1));
          gpu.synchronize(1);
          EXPECT(a.host()[999] == 2.0F && b.host()[999] == 1.0);
        },
        allfold_test::rank_timeout, allfold::SourceLocation::current());
  }
}

TEST_CASE("a stream that waits for a call, and holds up what the call needs, is let go with an error") {
  NEEDS_GPU();
  take_ways("");
  for (const bool frees : {true, false}) {
    allfold_test::run_on_gpus(
        {2, allfold::Ranks::processes, allfold_test::usable_gpus()},
        [frees](const allfold::Environment& environment, RankGpu& gpu) {
          allfold::MessageOptions options = message_options(CudaWay::staged);
          options.cuda_gates = true;
          auto comm = ThreadComm::create(environment, allfold_test::gpu_options(), options);
          DeviceVector<float> x(std::vector<float>(300000, 1.0F));
          float* other = nullptr;
          EXPECT_CUDA(cudaMalloc(reinterpret_cast<void**>(&other), 1 << 20));
          comm.all_reduce(x, allfold::sum);
          const auto held_up = [&] {
            if (comm.rank() == 1) ::usleep(500'000);
            const allfold::Work work = comm.all_reduce(x, allfold::sum, {.timeout = 5s, .async = true});
            if (comm.rank() == 0) {
              work.wait(gpu.stream());
              frees ? static_cast<void>(cudaFree(other)) : write_first<<<1, 1, 0, gpu.stream(1)>>>(other);
              gpu.synchronize();
            }
            work.wait();
          };
          if (comm.rank() == 1) {
            EXPECT_THROWS_AS(held_up(), allfold::Error);  // PeerError or TimeoutError
          } else {
            const std::string what = EXPECT_THROWS_AS(held_up(), allfold::UsageError);
            allfold_test::expect_contains(what, {"a stream waits", "CUDA_MODULE_LOADING=EAGER"});
          }
          EXPECT_CUDA(cudaDeviceSynchronize());
        },
        allfold_test::rank_timeout, allfold::SourceLocation::current());
  }
}

TEST_CASE("buffers in two places, of another GPU, managed, and streams under capture are errors") {
  NEEDS_GPU();
  over_ucx_gpus({2}, CudaWay::automatic, [](auto& comm, RankGpu& gpu) {
    DeviceVector<float> device(100);
    std::vector<float> host(100);
    const std::string mixed = EXPECT_THROWS_AS(comm.all_reduce(device, host, allfold::sum), allfold::UsageError);
    allfold_test::expect_contains(mixed, {"input is memory of device", "output is memory of the host"});

    float* managed = nullptr;
    EXPECT_CUDA(cudaMallocManaged(&managed, 400));
    const std::string unified =
        EXPECT_THROWS_AS(comm.all_reduce(std::span(managed, 100), allfold::sum), allfold::UsageError);
    allfold_test::expect_contains(unified, {"managed memory"});
    EXPECT_CUDA(cudaFree(managed));

    if (allfold_test::usable_gpus() > 1) {
      const int other = (gpu.device() + 1) % allfold_test::usable_gpus();
      const allfold::DeviceGuard guard(other);
      DeviceVector<float> there(100);
      const std::string elsewhere = EXPECT_THROWS_AS(comm.all_reduce(there, allfold::sum), allfold::UsageError);
      allfold_test::expect_contains(elsewhere, {"memory of device", "expected device"});
    }

    cudaGraph_t graph = nullptr;
    EXPECT_CUDA(cudaStreamBeginCapture(gpu.stream(), cudaStreamCaptureModeThreadLocal));
    const std::string captured =
        EXPECT_THROWS_AS(comm.all_reduce(device, allfold::sum, {.stream = gpu.stream()}), allfold::UsageError);
    allfold_test::expect_contains(captured, {"under capture"});
    EXPECT_CUDA(cudaStreamEndCapture(gpu.stream(), &graph));
    EXPECT_CUDA(cudaGraphDestroy(graph));
  });
}

TEST_CASE("many operands are folded in their order") {
  NEEDS_GPU();
  allfold_test::run_on_gpus(
      {1, allfold::Ranks::processes, 1},
      [](const allfold::Environment&, RankGpu& gpu) {
        constexpr std::size_t count = 5003;
        const allfold::Reduction<allfold::Sum, allfold::bfloat16> reduction{allfold::sum};
        const allfold::MessageReduction erased = allfold::device_reduction(reduction);
        for (const int operands : {1, 2, 3, 8, 9, 128, 129, 300}) {
          std::vector<allfold::bfloat16> all;
          for (int o = 0; o < operands; ++o) {
            const auto values = values_of<allfold::bfloat16>(o, count);
            all.insert(all.end(), values.begin(), values.end());
          }
          const DeviceVector<allfold::bfloat16> in(all);
          DeviceVector<allfold::bfloat16> out(count);
          DeviceVector<float> room(count);
          std::vector<const void*> at;
          for (int o = 0; o < operands; ++o) at.push_back(in.data() + static_cast<std::size_t>(o) * count);
          EXPECT(erased.enqueue(erased.reduction, allfold::FoldKind::values_to_value, at.data(), operands, out.data(),
                                count, operands, room.data(), gpu.stream()) == cudaSuccess);
          gpu.synchronize();
          EXPECT(same_values(out, allfold_test::folded_values<allfold::bfloat16>(allfold::sum, operands, count)));
        }
      },
      allfold_test::rank_timeout, allfold::SourceLocation::current());
}

TEST_CASE("a rank that is killed within a call is named, and the GPU goes on") {
  NEEDS_GPU();
  struct {
    const char* ways;
    CudaWay way;
  } const each[] = {{"tcp", CudaWay::staged}, {"", CudaWay::staged}, {"", CudaWay::automatic}};
  for (const auto& [ways, way] : each) {
    take_ways(ways);
    const auto outcomes =
        allfold::launch_outcomes(3,
                                 [way = way](const allfold::Environment& environment) {
                                   const RankGpu gpu(environment.rank % allfold_test::usable_gpus(), nullptr);
                                   auto comm = ThreadComm::create(environment, allfold_test::gpu_options(),
                                                                  allfold::MessageOptions{.cuda = way});
                                   DeviceVector<float> x(std::size_t{16} << 20);
                                   comm.all_reduce(x, allfold::sum);
                                   const allfold::Work work = comm.all_reduce(x, allfold::sum, {.async = true});
                                   if (comm.rank() == 1) {
                                     ::usleep(way == CudaWay::staged ? 3000 : 100);
                                     ::raise(SIGKILL);
                                   }
                                   const auto goes_on = [&] {
                                     work.wait();
                                     for (;;) comm.all_reduce(x, allfold::sum);
                                   };
                                   try {
                                     goes_on();
                                   } catch (const allfold::PeerError& error) {
                                     EXPECT(error.source_rank() == 1);
                                   }
                                   EXPECT_THROWS_AS(comm.status(), allfold::PeerError);
                                   x = std::vector<float>(x.size(), 2.0F);
                                   EXPECT(x.host().back() == 2.0F);
                                   EXPECT_CUDA(cudaDeviceSynchronize());
                                 },
                                 {.timeout = 90s});
    for (const allfold::Outcome& outcome : outcomes) {
      if (outcome.rank != 1) CHECK_MESSAGE(outcome.ok(), "over \"", std::string(ways), "\": ", outcome.error);
    }
  }
}
