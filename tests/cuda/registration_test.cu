// SPDX-License-Identifier: Apache-2.0
// Memory of cudaMalloc that is registered: reached by all ranks where it lies, and as good as symmetric memory.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <cuda.h>
#include <cuda_runtime.h>
#include <doctest/doctest.h>

#include <allfold/allfold.cuh>

#include <support/gpu_all_reduce.cuh>

using allfold::Algorithm;
using allfold_test::DeviceField;
using allfold_test::RankGpu;

namespace allfold_test {

/// Chooses by whether the memory is symmetric.
struct BySymmetry {
  using policy_category = allfold::selector_tag;
  static constexpr allfold::AlgorithmSet candidates =
      allfold::AlgorithmSet::of(Algorithm::one_shot) | allfold::AlgorithmSet::of(Algorithm::two_shot);
  allfold::Algorithm select(const allfold::SelectionQuery& query) const {
    return query.symmetric ? Algorithm::two_shot : Algorithm::one_shot;
  }
};

}  // namespace allfold_test

namespace {

using Comm = allfold::Communicator<allfold::NvlinkTransport, allfold_test::EverySelector>;
using Buffer = Comm::buffer_type<float>;
using Checks = allfold_test::GpuChecks<float, allfold::Sum>;

std::vector<float> fetch(std::span<const float> field, RankGpu& gpu) {
  std::vector<float> host(field.size());
  gpu.copy(host.data(), field.data(), field.size_bytes());
  return host;
}

void store(std::span<float> field, const std::vector<float>& host, RankGpu& gpu) {
  gpu.copy(field.data(), host.data(), field.size_bytes());
}

/// What a rank's field holds before a test: another number than its neighbours, and than the peers' fields.
std::vector<float> pattern(int rank, std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<float>(i % 10007 + 100000 * (1 + static_cast<unsigned>(rank)));
  return values;
}

/// All-reduces a buffer by an algorithm that takes symmetric memory alone where it lies, and checks the sums.
void expect_works(Comm& comm, std::span<float> field, RankGpu& gpu) {
  for (const Algorithm algorithm : {Algorithm::two_shot, Algorithm::one_shot_packet, Algorithm::one_shot}) {
    store(field, std::vector<float>(field.size(), static_cast<float>(comm.rank() + 1)), gpu);
    allfold::CallOptions options;
    options.stream = gpu.stream();
    options.algorithm = algorithm;
    comm.all_reduce(field, allfold::sum, options);
    const auto sum = static_cast<float>(comm.world_size() * (comm.world_size() + 1) / 2);
    EXPECT(fetch(field, gpu) == std::vector<float>(field.size(), sum));
    comm.status();
  }
}

/// Drops a buffer on every rank, so that the memory may be freed.
void drop(Buffer& buffer, RankGpu& gpu) {
  buffer = Buffer();
  gpu.meet();
}

}  // namespace

TEST_CASE("memory of cudaMalloc is registered as it is, and peers reach it") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{2}, std::size_t{1001}, std::size_t{3000000}}) {
      DeviceField<float> field(count);
      const std::vector<float> before = pattern(environment.rank, count);
      store(field.span(), before, gpu);
      Comm comm = Comm::create(environment, allfold_test::gpu_options());
      Buffer buffer = comm.register_buffer(field.span());
      EXPECT(buffer.data() == field.data() && buffer.size() == count);
      EXPECT(fetch(field.span(), gpu) == before);
      gpu.meet();
      for (int r = 0; r < environment.world_size; ++r) {
        const float* const peer = buffer.peers()[static_cast<std::size_t>(r)];
        EXPECT(fetch({peer, count}, gpu) == pattern(r, count));
      }
      EXPECT(buffer.signal_pads().size() == buffer.peers().size());
      gpu.meet();
      expect_works(comm, buffer.span(), gpu);
      gpu.meet();
      drop(buffer, gpu);
      // It is private memory again, which works too, and still the caller's.
      expect_works(comm, field.span(), gpu);
      gpu.meet();
    }
  });
}

TEST_CASE("collectives on registered memory copy nothing: a selector is told that it is symmetric") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    DeviceField<float> field(1000);
    auto comm = allfold::Communicator<allfold::NvlinkTransport, allfold_test::BySymmetry>::create(
        environment, allfold_test::gpu_options());
    EXPECT(comm.would_choose(field.span(), field.span()) == Algorithm::one_shot);
    auto buffer = comm.register_buffer(field.span());
    EXPECT(comm.would_choose(field.span(), field.span()) == Algorithm::two_shot);
    EXPECT(comm.would_choose(field.span().subspan(3, 5), buffer) == Algorithm::two_shot);
    buffer = {};
    EXPECT(comm.would_choose(field.span(), field.span()) == Algorithm::one_shot);
    gpu.meet();
  });
}

TEST_CASE("parts of one allocation are registered side by side, at any offset") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Checks checks(gpu, environment, allfold::sum, 1000, 20261207);
    const std::size_t part = Checks::room(1000);
    DeviceField<float> field(4 * part + 5);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    // Ranks need not have theirs at the same place.
    const std::size_t shift = environment.rank == 0 ? 0 : 5;
    Buffer first = comm.register_buffer(field.span().subspan(shift, part));
    Buffer second = comm.register_buffer(field.span().subspan(shift + 2 * part, part));
    for (const Algorithm algorithm : {Algorithm::two_shot, Algorithm::two_shot_push, Algorithm::one_shot}) {
      checks.check(comm, first.span(), 0, second.span(), 0, 1000, {.algorithm = algorithm});
      checks.check(comm, second.span(), 3, second.span(), 3, 997, {.algorithm = algorithm});
      checks.check(comm, checks.a(), 0, first.span(), 1, 999, {.algorithm = algorithm});
    }
    gpu.meet();
    drop(first, gpu);
    checks.check(comm, second.span(), 0, second.span(), 0, 1000, {.algorithm = Algorithm::two_shot});
    gpu.meet();
    drop(second, gpu);
  });
}

TEST_CASE("the same range twice gives two buffers; either may go first") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    DeviceField<float> field(1000);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    for (int round = 0; round < 3; ++round) {
      Buffer first = comm.register_buffer(field.span());
      Buffer second = comm.register_buffer(field.span());
      expect_works(comm, second.span(), gpu);
      gpu.meet();
      // Not even in the same order on every rank.
      drop((round + environment.rank) % 2 == 0 ? first : second, gpu);
      expect_works(comm, field.span(), gpu);
      gpu.meet();
      drop((round + environment.rank) % 2 == 0 ? second : first, gpu);
    }
  });
}

TEST_CASE("memory that is freed and allocated anew is registered anew") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    for (std::size_t round = 0; round < 5; ++round) {
      DeviceField<float> field(1000 + 100 * round);
      store(field.span(), pattern(environment.rank, field.span().size()), gpu);
      Buffer buffer = comm.register_buffer(field.span());
      EXPECT(fetch({buffer.peers()[1], buffer.size()}, gpu) == pattern(1, buffer.size()));
      gpu.meet();
      expect_works(comm, buffer.span(), gpu);
      gpu.meet();
      drop(buffer, gpu);
    }
  });
}

TEST_CASE("registered and allocated memory in one captured graph") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    DeviceField<float> field(5000);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    Buffer mine = comm.register_buffer(field.span());
    Buffer theirs = comm.allocate<float>(5000);
    allfold::CallOptions options;
    options.stream = gpu.stream();
    options.algorithm = Algorithm::two_shot;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    EXPECT_CUDA(cudaStreamBeginCapture(gpu.stream(), cudaStreamCaptureModeThreadLocal));
    comm.all_reduce(mine, theirs, allfold::sum, options);
    comm.all_reduce(theirs, mine, allfold::max, options);
    EXPECT_CUDA(cudaStreamEndCapture(gpu.stream(), &graph));
    EXPECT_CUDA(cudaGraphInstantiate(&ready, graph, 0));
    store(mine.span(), std::vector<float>(5000, 1), gpu);
    gpu.meet();
    for (int i = 0; i < 3; ++i) EXPECT_CUDA(cudaGraphLaunch(ready, gpu.stream()));
    const auto n = static_cast<float>(environment.world_size);
    EXPECT(fetch(mine.span(), gpu) == std::vector<float>(5000, n * n * n));
    comm.status();
    gpu.meet();
    EXPECT_CUDA(cudaGraphExecDestroy(ready));
    EXPECT_CUDA(cudaGraphDestroy(graph));
    drop(mine, gpu);
  });
}

TEST_CASE("a kernel signals through the pads of registered memory") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    DeviceField<float> field(10);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    Buffer buffer = comm.register_buffer(field.span());
    for (const std::uint32_t* const pad : buffer.signal_pads()) {
      std::vector<std::uint32_t> words(allfold::signal_pad_words, 1);
      gpu.copy(words.data(), pad, words.size() * 4);
      EXPECT(words == std::vector<std::uint32_t>(allfold::signal_pad_words));
    }
    EXPECT(buffer.device_peers() != nullptr && buffer.device_signal_pads() != nullptr);
    EXPECT(comm.device_signals(buffer).pad[1] == buffer.signal_pads()[1]);
    gpu.meet();
    drop(buffer, gpu);
  });
}
