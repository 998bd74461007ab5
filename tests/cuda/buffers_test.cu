// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/allfold.cuh>

#include <support/gpu_all_reduce.cuh>

using allfold::Algorithm;
using allfold_test::RankGpu;

namespace {

using Comm = allfold::Communicator<allfold::NvlinkTransport, allfold::FixedSelector<Algorithm::two_shot>>;
using Buffer = Comm::buffer_type<float>;
using Checks = allfold_test::GpuChecks<float, allfold::Sum>;

/// What a buffer holds, on the host.
std::vector<float> fetch(const Buffer& buffer, RankGpu& gpu) {
  std::vector<float> host(buffer.size());
  gpu.copy(host.data(), buffer.data(), buffer.size() * sizeof(float));
  return host;
}

void fill(const Buffer& buffer, float value, RankGpu& gpu) {
  const std::vector<float> host(buffer.size(), value);
  gpu.copy(buffer.data(), host.data(), buffer.size() * sizeof(float));
}

/// After a refusal, which touches no peer, everything works as before.
void expect_works(Comm& comm, Buffer& buffer, RankGpu& gpu) {
  fill(buffer, 1, gpu);
  comm.all_reduce(buffer, allfold::sum, {.stream = gpu.stream()});
  const std::vector<float> sums = fetch(buffer, gpu);
  comm.status();
  EXPECT(sums == std::vector<float>(buffer.size(), static_cast<float>(comm.world_size())));
}

}  // namespace

TEST_CASE("symmetric memory starts as zeros and is aligned") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    for (const std::size_t count : {std::size_t{1}, std::size_t{1001}, std::size_t{3000000}}) {
      auto x = comm.allocate<float>(count);
      EXPECT(x.size() == count);
      EXPECT(reinterpret_cast<std::uintptr_t>(x.data()) % 256 == 0);
      EXPECT(fetch(x, gpu) == std::vector<float>(count));
      cudaPointerAttributes attributes{};
      EXPECT_CUDA(cudaPointerGetAttributes(&attributes, x.data()));
      EXPECT(attributes.type == cudaMemoryTypeDevice && attributes.device == gpu.device());
      gpu.meet();
      expect_works(comm, x, gpu);
      gpu.meet();  // before it is freed
    }
  });
}

TEST_CASE("symmetric memory is zero again where it was used before") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    for (int round = 0; round < 4; ++round) {
      auto x = comm.allocate<float>(5000);
      EXPECT(fetch(x, gpu) == std::vector<float>(5000));
      fill(x, 7, gpu);
      gpu.meet();
    }
  });
}

TEST_CASE("many allocations, used in another order than they were made") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    std::vector<Buffer> buffers;
    for (std::size_t i = 0; i < 24; ++i) buffers.push_back(comm.allocate<float>(1 + i * i * 700));
    for (std::size_t i = 0; i < buffers.size(); ++i) expect_works(comm, buffers[i * 7 % buffers.size()], gpu);
    gpu.meet();
    for (std::size_t i = 0; i < buffers.size(); i += 2) buffers[i] = Buffer();
    gpu.meet();
    for (std::size_t i = 1; i < buffers.size(); i += 2) expect_works(comm, buffers[i], gpu);
    gpu.meet();
  });
}

TEST_CASE("a buffer may outlive its communicator") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    std::optional<Comm> comm(Comm::create(environment, allfold_test::gpu_options()));
    Buffer buffer = comm->allocate<float>(1000);
    expect_works(*comm, buffer, gpu);
    gpu.meet();
    comm.reset();
    fill(buffer, 2, gpu);
    EXPECT(fetch(buffer, gpu) == std::vector<float>(1000, 2));
  });
}

TEST_CASE("ranks may let go in any order") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    std::optional<Comm> comm(Comm::create(environment, allfold_test::gpu_options()));
    std::optional<Buffer> first(comm->allocate<float>(1000));
    std::optional<Buffer> second(comm->allocate<float>(50));
    expect_works(*comm, *first, gpu);
    expect_works(*comm, *second, gpu);
    if (environment.rank == 0) {
      comm.reset();
      second.reset();
    } else {
      first.reset();
      comm.reset();
    }
  });
}

TEST_CASE("parts of a symmetric buffer, and of one beside another") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Checks checks(gpu, environment, allfold::sum, 1000, 20261205);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    auto x = comm.allocate<float>(4 * Checks::room(1000));
    const std::size_t part = Checks::room(1000);
    checks.check(comm, x.span().first(part), 0, x.span().subspan(3 * part), 0, 1000, {});
    checks.check(comm, x.span().subspan(part, part), 5, x.span().subspan(2 * part, part), 2, 999, {});
  });
}

TEST_CASE("arguments that cannot be right are refused") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    auto x = comm.allocate<float>(20);
    const std::span<float> all = x.span();
    const allfold::CallOptions options{.stream = gpu.stream()};
    EXPECT_THROWS_AS(comm.all_reduce(all.first(10), all.subspan(5, 10), allfold::sum, options), allfold::UsageError);
    EXPECT_THROWS_AS(comm.all_reduce(all.first(10), all.subspan(10, 9), allfold::sum, options), allfold::UsageError);
    EXPECT_THROWS_AS(comm.all_reduce(std::span<float>(static_cast<float*>(nullptr), 4), allfold::sum, options),
                     allfold::UsageError);
    EXPECT_THROWS_AS(comm.all_reduce(all, allfold::sum, {.stream = gpu.stream(), .channel = 1}), allfold::UsageError);
    comm.all_reduce(all.first(0), allfold::sum, options);
    expect_works(comm, x, gpu);
  });
}
