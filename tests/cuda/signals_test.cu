// SPDX-License-Identifier: Apache-2.0
// Arrays of peer pointers and signal pads: kernels of the user's that read, write and signal for themselves.
#include <chrono>
#include <cstddef>
#include <cstdint>
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

using namespace std::chrono_literals;
using allfold::Algorithm;
using allfold::DeviceSignals;
using allfold_test::RankGpu;

namespace {

using Comm = allfold::Communicator<allfold::NvlinkTransport, allfold::FixedSelector<Algorithm::two_shot>>;
using Buffer = Comm::buffer_type<unsigned>;

constexpr int blocks = 4;
constexpr int threads = 128;

template <class T>
std::vector<T> fetch(const T* from, std::size_t count, RankGpu& gpu) {
  std::vector<T> host(count);
  gpu.copy(host.data(), from, count * sizeof(T));
  return host;
}

void expect_zero_pads(const Buffer& buffer, RankGpu& gpu) {
  for (const std::uint32_t* const pad : buffer.signal_pads()) {
    EXPECT(fetch(pad, allfold::signal_pad_words, gpu) == std::vector<std::uint32_t>(allfold::signal_pad_words));
  }
}

/// Elements [0, world_size) of every rank: what each rank writes there.
__global__ void write_to_peers(unsigned* const* peers, int rank, int world_size) {
  const auto peer = static_cast<int>(threadIdx.x);
  if (peer < world_size) peers[peer][rank] = static_cast<unsigned>(100 * rank + peer);
}

__global__ void read_from_peers(unsigned* const* peers, int world_size, unsigned* out) {
  const auto i = static_cast<int>(threadIdx.x);
  if (i < world_size * world_size) out[i] = peers[i / world_size][i % world_size];
}

/// A message that goes around the ring of ranks: each rank waits for it, adds one, and hands it on. Block b has slot b.
__global__ void pass_around(const __grid_constant__ DeviceSignals signals, unsigned* const* peers, int laps,
                            unsigned* failed) {
  if (threadIdx.x != 0) return;
  const auto slot = static_cast<int>(blockIdx.x);
  const int ranks = signals.world_size();
  const int me = signals.rank();
  const int next = (me + 1) % ranks;
  bool ok = true;
  for (int lap = 0; lap < laps && ok; ++lap) {
    if (me != 0 || lap != 0) ok = wait_signal(signals, (me + ranks - 1) % ranks, slot);
    if (!ok) break;
    peers[next][slot] = peers[me][slot] + 1;
    ok = put_signal(signals, next, slot);
  }
  if (ok && me == 0) ok = wait_signal(signals, ranks - 1, slot);
  if (!ok) atomicAdd(failed, 1U);
}

/// In each step every thread writes a word to every rank, the block meets the peers' blocks, and each thread checks
/// what all ranks wrote to it; a second barrier keeps the next step's words back.
__global__ void exchange_steps(const __grid_constant__ DeviceSignals signals, unsigned* const* peers, int steps,
                               unsigned* wrong) {
  const int ranks = signals.world_size();
  const auto lane = blockIdx.x * blockDim.x + threadIdx.x;
  const auto lanes = gridDim.x * blockDim.x;
  const auto slot = static_cast<int>(blockIdx.x);
  for (int step = 0; step < steps; ++step) {
    for (int r = 0; r < ranks; ++r) {
      peers[r][lanes * static_cast<unsigned>(signals.rank()) + lane] = static_cast<unsigned>(step) * 1000003U + lane;
    }
    if (!barrier(signals, slot)) return;
    for (int r = 0; r < ranks; ++r) {
      const unsigned got = peers[signals.rank()][lanes * static_cast<unsigned>(r) + lane];
      if (got != static_cast<unsigned>(step) * 1000003U + lane) atomicAdd(wrong, 1U);
    }
    if (!barrier(signals, slot)) return;
  }
}

__global__ void wait_once(const __grid_constant__ DeviceSignals signals, int peer, int slot, unsigned* result) {
  *result = wait_signal(signals, peer, slot) ? 1 : 2;
}
__global__ void put_twice(const __grid_constant__ DeviceSignals signals, int peer, int slot, unsigned* result) {
  *result = put_signal(signals, peer, slot) ? 1 : 2;
  *result += put_signal(signals, peer, slot) ? 10 : 20;
}
__global__ void meet_once(const __grid_constant__ DeviceSignals signals, int slot, unsigned* results) {
  results[threadIdx.x] = barrier(signals, slot) ? 1 : 2;
}

}  // namespace

TEST_CASE("every rank reaches every part through the array of peers, on the host and on the GPU") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    const int world_size = environment.world_size;
    const auto ranks = static_cast<std::size_t>(world_size);
    allfold_test::DeviceField<unsigned> seen(ranks * ranks);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    Buffer buffer = comm.allocate<unsigned>(1000);
    EXPECT(buffer.serial() == 1);
    const std::span<unsigned* const> peers = buffer.peers();
    EXPECT(peers.size() == ranks);
    EXPECT(peers[static_cast<std::size_t>(environment.rank)] == buffer.data());
    EXPECT(fetch(buffer.device_peers(), ranks, gpu) == std::vector<unsigned*>(peers.begin(), peers.end()));
    const std::span<std::uint32_t* const> pads = buffer.signal_pads();
    EXPECT(pads.size() == ranks);
    EXPECT(fetch(buffer.device_signal_pads(), ranks, gpu) == std::vector<std::uint32_t*>(pads.begin(), pads.end()));
    write_to_peers<<<1, 32, 0, gpu.stream()>>>(buffer.device_peers(), environment.rank, world_size);
    EXPECT_CUDA(cudaGetLastError());
    comm.barrier({.stream = gpu.stream()});
    read_from_peers<<<1, 64, 0, gpu.stream()>>>(buffer.device_peers(), world_size, seen.data());
    EXPECT_CUDA(cudaGetLastError());
    const std::vector<unsigned> words = fetch(seen.data(), ranks * ranks, gpu);
    comm.status();
    for (std::size_t to = 0; to < ranks; ++to) {
      for (std::size_t from = 0; from < ranks; ++from) EXPECT(words[to * ranks + from] == 100 * from + to);
    }
    expect_zero_pads(buffer, gpu);
    // What is moved keeps its arrays, and what it was moved from has none.
    const auto* const table = buffer.device_peers();
    Buffer moved = std::move(buffer);
    EXPECT(moved.device_peers() == table && moved.peers().size() == ranks && moved.signal_pads().size() == ranks);
    EXPECT(buffer.device_peers() == nullptr && buffer.peers().empty() && buffer.signal_pads().empty());
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.device_signals(buffer), allfold::UsageError),
                                  {"device_signals", "no signal pads of this communicator's", "try allocate"});
    gpu.meet();
  });
}

TEST_CASE("signals go around all ranks, and pads are zero again") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    allfold_test::DeviceField<unsigned> failed(1);
    EXPECT_CUDA(cudaMemset(failed.data(), 0, sizeof(unsigned)));
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    Buffer buffer = comm.allocate<unsigned>(blocks);
    const DeviceSignals signals = comm.device_signals(buffer);
    constexpr int laps = 200;
    for (int run = 0; run < 3; ++run) {
      pass_around<<<blocks, 32, 0, gpu.stream()>>>(signals, buffer.device_peers(), laps, failed.data());
      EXPECT_CUDA(cudaGetLastError());
    }
    gpu.synchronize();
    comm.status();
    gpu.meet();
    EXPECT(fetch(failed.data(), 1, gpu)[0] == 0);
    if (environment.rank == 0) {
      const auto hops = static_cast<unsigned>(3 * laps * environment.world_size);
      EXPECT(fetch(buffer.data(), blocks, gpu) == std::vector<unsigned>(blocks, hops));
    }
    expect_zero_pads(buffer, gpu);
    gpu.meet();
  });
}

TEST_CASE("blocks meet their peers' blocks, in one kernel, in many, and in a graph") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t lanes = std::size_t{blocks} * threads;
    allfold_test::DeviceField<unsigned> wrong(1);
    EXPECT_CUDA(cudaMemset(wrong.data(), 0, sizeof(unsigned)));
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    Buffer buffer = comm.allocate<unsigned>(lanes * static_cast<std::size_t>(environment.world_size));
    const DeviceSignals signals = comm.device_signals(buffer);
    const auto run = [&](int steps) {
      exchange_steps<<<blocks, threads, 0, gpu.stream()>>>(signals, buffer.device_peers(), steps, wrong.data());
      EXPECT_CUDA(cudaGetLastError());
    };
    run(100);
    for (int i = 0; i < 20; ++i) run(1 + i % 3);
    gpu.synchronize();
    gpu.meet();  // before a graph is instantiated
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    EXPECT_CUDA(cudaStreamBeginCapture(gpu.stream(), cudaStreamCaptureModeThreadLocal));
    run(2);
    comm.barrier({.stream = gpu.stream()});
    run(3);
    EXPECT_CUDA(cudaStreamEndCapture(gpu.stream(), &graph));
    EXPECT_CUDA(cudaGraphInstantiate(&ready, graph, 0));
    gpu.meet();
    for (int i = 0; i < 20; ++i) EXPECT_CUDA(cudaGraphLaunch(ready, gpu.stream()));
    gpu.synchronize();
    comm.status();
    EXPECT(fetch(wrong.data(), 1, gpu)[0] == 0);
    gpu.meet();
    expect_zero_pads(buffer, gpu);
    EXPECT_CUDA(cudaGraphExecDestroy(ready));
    EXPECT_CUDA(cudaGraphDestroy(graph));
    gpu.meet();
  });
}

TEST_CASE("two allocations have pads of their own") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    allfold_test::DeviceField<unsigned> result(1);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    Buffer first = comm.allocate<unsigned>(1);
    Buffer second = comm.allocate<unsigned>(std::size_t{1} << 20);
    EXPECT(first.signal_pads()[0] != second.signal_pads()[0]);
    // A signal to oneself serves as well; it stands in the second's pad alone until it is taken.
    put_twice<<<1, 1, 0, gpu.stream()>>>(comm.device_signals(second, {.timeout = 100ms}), environment.rank, 0,
                                         result.data());
    EXPECT_CUDA(cudaGetLastError());
    gpu.synchronize();
    EXPECT(fetch(result.data(), 1, gpu)[0] == 1 + 20);
    expect_zero_pads(first, gpu);
    EXPECT_THROWS_AS(comm.status(), allfold::TimeoutError);
    gpu.meet();
  });
}

namespace {

/// Runs a kernel that cannot succeed, and tells what the communicator says of it.
template <class Kernel>
void expect_failure(const allfold::Environment& environment, RankGpu& gpu, Kernel&& kernel,
                    std::initializer_list<const char*> parts) {
  allfold_test::DeviceField<unsigned> result(threads);
  Comm comm = Comm::create(environment, allfold_test::gpu_options());
  Buffer buffer = comm.allocate<unsigned>(1);
  gpu.meet();
  if (environment.rank == 0) {
    const auto begin = allfold::Clock::now();
    kernel(comm.device_signals(buffer, {.timeout = 300ms}), result.data());
    EXPECT_CUDA(cudaGetLastError());
    gpu.synchronize();
    EXPECT(allfold::Clock::now() - begin < 300ms + 1s);
  }
  gpu.meet();
  // Every rank learns of it, and can go on with a new communicator.
  allfold_test::expect_contains(EXPECT_THROWS_AS(comm.status(), allfold::Error), parts);
  EXPECT_CUDA(cudaGetLastError());
  gpu.meet();
}

}  // namespace

TEST_CASE("a signal that does not come is an error that names the peer and the slot") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    expect_failure(environment, gpu,
                   [&](const DeviceSignals& signals, unsigned* result) {
                     wait_once<<<1, 1, 0, gpu.stream()>>>(signals, 1, 7, result);
                   },
                   {"a signal in slot 7 of symmetric allocation 1"});
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    auto x = comm.allocate<float>(10);
    const allfold::CallOptions options{.stream = gpu.stream()};
    comm.all_reduce(x, allfold::sum, options);
    gpu.synchronize();
    comm.status();
    gpu.meet();
  });
}

TEST_CASE("a signal that is not taken is an error that names the peer") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    expect_failure(environment, gpu,
                   [&](const DeviceSignals& signals, unsigned* result) {
                     put_twice<<<1, 1, 0, gpu.stream()>>>(signals, 1, 0, result);
                   },
                   {"slot 0 of symmetric allocation 1",
                    environment.rank == 1 ? "this rank came too late" : "rank 1 did not arrive"});
  });
}

TEST_CASE("a barrier that a peer does not come to fails on every thread of the block") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    expect_failure(environment, gpu,
                   [&](const DeviceSignals& signals, unsigned* results) {
                     meet_once<<<1, threads, 0, gpu.stream()>>>(signals, 3, results);
                     EXPECT(fetch(results, threads, gpu) == std::vector<unsigned>(threads, 2));
                   },
                   {"slot 3 of symmetric allocation 1"});
  });
}

TEST_CASE("a slot or a rank that does not exist is refused at once") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    for (const auto& [peer, slot] : {std::pair{1, allfold::signal_slots}, {1, -1}, {2, 0}, {-1, 0}, {257, 0}}) {
      expect_failure(environment, gpu,
                     [&, peer = peer, slot = slot](const DeviceSignals& signals, unsigned* result) {
                       wait_once<<<1, 1, 0, gpu.stream()>>>(signals, peer, slot, result);
                     },
                     {"a kernel of rank 0 asked for a signal",
                      peer == 1 ? "with rank 1;" : "with a rank that there is not", "expected slots 0 to 255"});
    }
  });
}
