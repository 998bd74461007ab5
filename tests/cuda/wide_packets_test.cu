// SPDX-License-Identifier: Apache-2.0
// Wide packets: their tags come again at once, so thousands of calls of all lengths follow one another, with other data
// in each, checked by kernels on the same stream.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>

#include <cuda_bf16.h>
#include <doctest/doctest.h>

#include <allfold/allfold.cuh>
#include <allfold/interop/cuda_floats.cuh>

#include <support/gpu_all_reduce.cuh>
#include <support/random.hpp>

using allfold::Algorithm;
using allfold_test::Random;
using allfold_test::RankGpu;

namespace {

using T = __nv_bfloat16;
using Comm = allfold::Communicator<allfold::NvlinkTransport,
                                   allfold_test::SomeSelector<Algorithm::one_shot_packet, Algorithm::two_shot_packet,
                                                              Algorithm::two_shot_push, Algorithm::two_shot>>;

struct Findings {
  unsigned wrong;
  unsigned call;
  unsigned index;
};

/// Small whole numbers, whose sums bfloat16 holds exactly. Calls that meet the same tag have other data.
__device__ unsigned pattern(unsigned call, int rank, std::size_t i) {
  return static_cast<unsigned>((i * 7 + i / 248 * 5 + i / 983 + static_cast<unsigned>(rank) * 3U + call * 11U) % 17U);
}

__global__ void fill_kernel(T* to, std::size_t n, int rank, unsigned call) {
  for (std::size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    to[i] = __float2bfloat16(static_cast<float>(pattern(call, rank, i)));
  }
}

__global__ void check_kernel(const T* from, std::size_t n, int ranks, unsigned call, Findings* findings) {
  for (std::size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    unsigned sum = 0;
    for (int r = 0; r < ranks; ++r) sum += pattern(call, r, i);
    if (__bfloat162float(from[i]) == static_cast<float>(sum)) continue;
    if (atomicAdd(&findings->wrong, 1U) == 0) {
      findings->call = call;
      findings->index = static_cast<unsigned>(i);
    }
  }
}

constexpr std::size_t vector_elems = 8;

/// Calls of up to `most_bytes`, so many of 100 as long as it happens, the others as short as wide packets are: then the
/// slots of long calls grow old.
void run_calls(const allfold::Environment& environment, RankGpu& gpu, unsigned calls, std::size_t most_bytes,
               unsigned percent_long, int blocks, std::uint64_t seed) {
  const std::size_t most = most_bytes / sizeof(T);
  allfold_test::DeviceField<Findings> found(1);
  EXPECT_CUDA(cudaMemset(found.data(), 0, sizeof(Findings)));
  EXPECT_CUDA(cudaDeviceSynchronize());
  allfold::Options options = allfold_test::gpu_options();
  options.blocks = blocks;
  Comm comm = Comm::create(environment, options);
  // Symmetric, for of private memory a rank does not know how its peers' is aligned.
  const auto in = comm.allocate<T>(most);
  const auto out = comm.allocate<T>(most);
  const cudaStream_t stream = gpu.stream();
  Random random(seed);
  for (unsigned call = 0; call < calls; ++call) {
    const Algorithm algorithm = random.chance(50) ? Algorithm::one_shot_packet : Algorithm::two_shot_packet;
    const std::size_t longest = most / vector_elems;
    const std::size_t least = allfold_test::surely_wide_bytes(algorithm, environment.world_size) / 16;
    EXPECT(least <= longest);
    const std::size_t count =
        random.between(least, random.chance(percent_long) ? longest : std::min(least + 4096, longest)) * vector_elems;
    allfold::CallOptions call_options;
    call_options.stream = stream;
    call_options.algorithm = algorithm;
    if (random.chance(3)) call_options.algorithm = Algorithm::two_shot_push;
    if (random.chance(3)) comm.barrier({.stream = stream});
    const bool in_place = random.chance(30);
    const std::span<T> from = in.span().first(count);
    const std::span<T> to = in_place ? from : out.span().first(count);
    fill_kernel<<<32, 256, 0, stream>>>(from.data(), count, environment.rank, call);
    comm.all_reduce(from, to, allfold::sum, call_options);
    check_kernel<<<32, 256, 0, stream>>>(to.data(), count, environment.world_size, call, found.data());
  }
  EXPECT_CUDA(cudaGetLastError());
  gpu.synchronize();
  comm.status();
  Findings findings{};
  EXPECT_CUDA(cudaMemcpy(&findings, found.data(), sizeof findings, cudaMemcpyDeviceToHost));
  if (findings.wrong != 0) {
    allfold_test::throw_failure(allfold::concat({findings.wrong, " elements are wrong, the first in call ",
                                                 findings.call, " at ", findings.index}),
                                __FILE__, __LINE__);
  }
  comm.barrier({.stream = stream});
  gpu.synchronize();
}

}  // namespace

TEST_CASE("wide packets: thousands of calls of all lengths, with tags that come around") {
  NEEDS_GPU();
  const std::uint64_t seed = allfold_test::test_seed();
  allfold_test::over_gpus({2, 4}, [&](const allfold::Environment& environment, RankGpu& gpu) {
    run_calls(environment, gpu, 3000, std::size_t{7} << 20, 5, 0, seed);
  });
}

TEST_CASE("wide packets: few blocks, so that calls are about as long as the slots, or are several rounds") {
  NEEDS_GPU();
  const std::uint64_t seed = allfold_test::test_seed();
  allfold_test::over_gpus({2, 4}, [&](const allfold::Environment& environment, RankGpu& gpu) {
    for (const int blocks : {2, 3, 5, 8}) run_calls(environment, gpu, 700, std::size_t{2} << 20, 60, blocks, seed);
  });
}

// What tests/cuda/sanitize.py runs under compute-sanitizer, whose kernels are a hundred times slower.
TEST_CASE("a short round for the sanitizers") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    run_calls(environment, gpu, 10, std::size_t{512} << 10, 0, 12, 1);
  });
}
