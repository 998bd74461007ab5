// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <span>
#include <vector>

#include <cuda_bf16.h>
#include <doctest/doctest.h>

#include <allfold/allfold.cuh>

#include <support/gpu_all_reduce.cuh>

using allfold::Algorithm;
using allfold_test::GpuChecks;
using allfold_test::RankGpu;

namespace {

using Comm = allfold::Communicator<allfold::NvlinkTransport, allfold_test::EverySelector>;

constexpr bool possible(Algorithm algorithm, int world_size) {
  return algorithm != Algorithm::hybrid_cube_mesh || world_size == 8;
}

/// One element type's fields in private and in symmetric memory.
template <class T>
struct Memory {
  using Checks = GpuChecks<T, allfold::Sum>;

  Memory(Comm& comm, Checks& checks, std::size_t most)
      : symmetric_a(comm.allocate<T>(Checks::room(most))),
        symmetric_b(comm.allocate<T>(Checks::room(most))),
        fields{{checks.a(), checks.a()},
               {checks.a(), checks.b()},
               {symmetric_a.span(), symmetric_a.span()},
               {symmetric_a.span(), symmetric_b.span()},
               {checks.a(), symmetric_b.span()},
               {symmetric_a.span(), checks.b()}} {}

  Comm::buffer_type<T> symmetric_a;
  Comm::buffer_type<T> symmetric_b;
  /// Every placement of input and output: private and symmetric, in place and not, and mixed.
  std::span<T> fields[6][2];
};

/// Every algorithm on every placement, with the input `offset` elements from a 16-byte boundary; once with the output
/// there too, and once elsewhere.
template <class T>
void check_offset(Comm& comm, GpuChecks<T, allfold::Sum>& checks, Memory<T>& memory, std::size_t count,
                  std::size_t offset) {
  for (const Algorithm algorithm : allfold::all_algorithms) {
    if (!possible(algorithm, comm.world_size())) continue;
    allfold::CallOptions options;
    options.algorithm = algorithm;
    for (const auto& [in, out] : memory.fields) {
      checks.check(comm, in, offset, out, offset, count, options);
      if (in.data() != out.data()) checks.check(comm, in, offset, out, (offset + 3) % 8, count, options);
    }
  }
}

template <class T>
void check_algorithms(const allfold::Environment& environment, RankGpu& gpu) {
  constexpr std::size_t most = (std::size_t{3} << 20) + 5;
  GpuChecks<T, allfold::Sum> checks(gpu, environment, allfold::sum, most, 20261130);
  Comm comm = Comm::create(environment, allfold_test::gpu_options());
  Memory<T> memory(comm, checks, most);
  for (const std::size_t count : {0, 1, 2, 3, 5, 7, 8, 63, 64, 65, 1000, 4096, 4097}) {
    for (std::size_t offset = 0; offset < 8; ++offset) check_offset<T>(comm, checks, memory, count, offset);
  }
  for (const std::size_t offset : {0, 1, 4}) check_offset<T>(comm, checks, memory, 65536 + 3, offset);
  for (const std::size_t offset : {0, 5}) check_offset<T>(comm, checks, memory, std::size_t{1} << 20, offset);
  check_offset<T>(comm, checks, memory, most, 0);
}

}  // namespace

TEST_CASE("every algorithm gives the oracle's bits, float") {
  NEEDS_GPU();
  allfold_test::over_gpus(allfold_test::gpu_world_sizes, [](const allfold::Environment& environment, RankGpu& gpu) {
    check_algorithms<float>(environment, gpu);
  });
}

TEST_CASE("every algorithm gives the oracle's bits, bfloat16") {
  NEEDS_GPU();
  allfold_test::over_gpus(allfold_test::gpu_world_sizes, [](const allfold::Environment& environment, RankGpu& gpu) {
    check_algorithms<__nv_bfloat16>(environment, gpu);
  });
}

TEST_CASE("more than the staging memory and the packets hold, with few blocks and odd numbers of them") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4, 8}, [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t most = 150011;
    GpuChecks<float, allfold::Sum> checks(gpu, environment, allfold::sum, most, 20261201);
    for (const int blocks : {1, 3, 8}) {
      allfold::Options options = allfold_test::gpu_options();
      options.buffer_bytes = std::size_t{64} << 10;
      options.blocks = blocks;
      Comm comm = Comm::create(environment, options);
      Memory<float> memory(comm, checks, most);
      for (const std::size_t count : {std::size_t{777}, std::size_t{30011}, most}) {
        check_offset<float>(comm, checks, memory, count, count % 8);
      }
    }
  });
}

TEST_CASE("calls enqueued one after another, without a wait on the host between them") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t most = 70001;
    constexpr std::size_t depth = 12;
    allfold_test::Answers<float> answers(allfold::sum, environment.rank, environment.world_size, most, 20261202);
    std::vector<std::unique_ptr<allfold_test::DeviceField<float>>> fields;
    std::vector<std::unique_ptr<allfold_test::CheckedCall<float>>> calls;
    for (std::size_t i = 0; i < 2 * depth; ++i) {
      fields.push_back(std::make_unique<allfold_test::DeviceField<float>>(GpuChecks<float, allfold::Sum>::room(most)));
      if (i < depth) calls.push_back(std::make_unique<allfold_test::CheckedCall<float>>(answers, most));
    }
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    for (const std::size_t count : {std::size_t{16}, std::size_t{1000}, most}) {
      for (int round = 0; round < 20; ++round) {
        for (std::size_t i = 0; i < depth; ++i) {
          allfold::CallOptions options;
          options.stream = gpu.stream();
          options.algorithm =
              allfold::all_algorithms[(i + static_cast<std::size_t>(round)) % std::size(allfold::all_algorithms)];
          if (!possible(*options.algorithm, comm.world_size())) options.algorithm = Algorithm::one_shot;
          const std::span<float> in = fields[2 * i]->span();
          const std::span<float> out = i % 3 == 0 ? in : fields[2 * i + 1]->span();
          calls[i]->begin(comm, allfold::sum, {in, out, allfold_test::guard_elems, allfold_test::guard_elems}, count,
                          options);
        }
        for (auto& call : calls) call->end(comm);
      }
    }
  });
}

TEST_CASE("private memory that is aligned differently on each rank") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t most = std::size_t{3} << 18;
    GpuChecks<__nv_bfloat16, allfold::Sum> checks(gpu, environment, allfold::sum, most, 20261204);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    const auto rank = static_cast<std::size_t>(environment.rank);
    for (const Algorithm algorithm : allfold::all_algorithms) {
      if (!possible(algorithm, comm.world_size())) continue;
      allfold::CallOptions options;
      options.algorithm = algorithm;
      for (const std::size_t count : {std::size_t{600}, std::size_t{1} << 17, std::size_t{1} << 19, most}) {
        checks.check(comm, checks.a(), rank, checks.b(), 2 * rank, count, options);
        checks.check(comm, checks.a(), 0, checks.b(), rank % 2, count, options);
      }
    }
  });
}

TEST_CASE("an algorithm that cannot run the call is refused, and the communicator lives on") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    GpuChecks<float, allfold::Sum> checks(gpu, environment, allfold::sum, 100, 1);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    allfold::CallOptions options;
    options.stream = gpu.stream();
    options.algorithm = Algorithm::hybrid_cube_mesh;
    allfold_test::expect_contains(
        EXPECT_THROWS_AS(comm.all_reduce(checks.a(), allfold::sum, options), allfold::UsageError),
        {"all_reduce", "hybrid_cube_mesh"});
    checks.check_counts(comm, {100});
  });
}

// What tests/cuda/sanitize.py runs under compute-sanitizer, whose kernels are a hundred times slower.
TEST_CASE("a short round for the sanitizers") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t most = 40000;
    GpuChecks<float, allfold::Sum> checks(gpu, environment, allfold::sum, most, 20261203);
    allfold::Options options = allfold_test::gpu_options();
    options.blocks = 2;
    Comm comm = Comm::create(environment, options);
    Memory<float> memory(comm, checks, most);
    for (const std::size_t count : {std::size_t{1}, std::size_t{64}, std::size_t{3001}, most}) {
      check_offset<float>(comm, checks, memory, count, count % 2);
    }
    comm.barrier({.stream = gpu.stream()});
    gpu.synchronize();
    comm.status();
  });
}
