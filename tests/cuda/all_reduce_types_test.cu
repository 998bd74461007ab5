// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <doctest/doctest.h>

#include <allfold/allfold.cuh>

#include <support/gpu_all_reduce.cuh>

using allfold::Algorithm;
using allfold_test::RankGpu;

/// A user's types. In a namespace that has a name: nvcc warns of kernels that are instantiated for others.
namespace user {

/// 12 bytes, which divide no packet evenly; joined in rank order alone.
struct Third {
  std::uint32_t a, b, c;

  Third() = default;
  explicit Third(std::uint32_t word) : a(word), b(word * 3), c(word >> 3) {}
};

struct JoinThirds {
  static constexpr std::string_view name = "join_thirds";

  ALLFOLD_HD Third operator()(const Third& x, const Third& y) const {
    Third z;
    z.a = x.a + y.a;
    z.b = x.b * 31 + y.b;
    z.c = x.c ^ y.c;
    return z;
  }
};

/// 40 bytes: more than a packet holds.
struct Wide {
  std::uint64_t words[5];

  Wide() = default;
  explicit Wide(std::uint32_t word) {
    for (std::uint64_t i = 0; i < 5; ++i) words[i] = word * (i + 1);
  }
  ALLFOLD_HD friend Wide operator+(const Wide& a, const Wide& b) {
    Wide c;
    for (int i = 0; i < 5; ++i) c.words[i] = a.words[i] + b.words[i];
    return c;
  }
};

}  // namespace user

namespace {

// One algorithm each, so that few kernels are compiled: packets, whose payload elements may not divide, one_shot, and
// two_shot_push, whose results lie in memory of their type between two motions.
using Packets = allfold::Communicator<allfold::NvlinkTransport, allfold::FixedSelector<Algorithm::one_shot_packet>>;
using Plain = allfold::Communicator<allfold::NvlinkTransport, allfold::FixedSelector<Algorithm::one_shot>>;
using Push = allfold::Communicator<allfold::NvlinkTransport, allfold::FixedSelector<Algorithm::two_shot_push>>;

constexpr std::initializer_list<std::size_t> counts = {0, 1, 3, 8, 17, 1025, 30011};
/// In symmetric memory this goes in wide packets, also of elements of one byte.
constexpr std::size_t most = allfold_test::surely_wide_bytes(Algorithm::one_shot_packet, 2);

template <class T, class Comm, class Op>
void check_type(const allfold::Environment& environment, RankGpu& gpu, const Op& op) {
  using Checks = allfold_test::GpuChecks<T, Op>;
  Checks checks(gpu, environment, op, most, 20261204);
  Comm comm = Comm::create(environment, allfold_test::gpu_options());
  checks.check_counts(comm, counts);
  const auto in = comm.template allocate<T>(Checks::room(most));
  const auto out = comm.template allocate<T>(Checks::room(most));
  checks.check(comm, in.span(), 0, out.span(), 0, most, {});
  checks.check(comm, out.span(), 0, out.span(), 0, most, {});
  gpu.meet();
}

constexpr std::initializer_list<int> world_sizes = {2, 3, 4, 8};

}  // namespace

TEST_CASE("integers and bool") {
  NEEDS_GPU();
  allfold_test::over_gpus(world_sizes, [](const allfold::Environment& environment, RankGpu& gpu) {
    check_type<std::int8_t, Plain>(environment, gpu, allfold::sum);
    check_type<std::uint8_t, Packets>(environment, gpu, allfold::max);
    check_type<std::int32_t, Packets>(environment, gpu, allfold::product);
    check_type<std::int64_t, Plain>(environment, gpu, allfold::min);
    check_type<bool, Packets>(environment, gpu, allfold::lxor);
  });
}

TEST_CASE("floats; those of 16 and 8 bits are folded in float and rounded once") {
  NEEDS_GPU();
  allfold_test::over_gpus(world_sizes, [](const allfold::Environment& environment, RankGpu& gpu) {
    check_type<double, Plain>(environment, gpu, allfold::sum);
    check_type<__half, Plain>(environment, gpu, allfold::sum);
    check_type<allfold::float16, Packets>(environment, gpu, allfold::sum);
    check_type<__nv_fp8_e4m3, Packets>(environment, gpu, allfold::sum);
    check_type<__nv_fp8_e5m2, Plain>(environment, gpu, allfold::sum);
    check_type<__half, Push>(environment, gpu, allfold::sum);
    check_type<__nv_fp8_e4m3, Push>(environment, gpu, allfold::sum);
  });
}

TEST_CASE("operators with a step before or after the sum") {
  NEEDS_GPU();
  allfold_test::over_gpus(world_sizes, [](const allfold::Environment& environment, RankGpu& gpu) {
    check_type<__nv_bfloat16, Plain>(environment, gpu, allfold::avg);
    check_type<float, Packets>(environment, gpu, allfold::premul_sum(1.0F / 3));
  });
}

TEST_CASE("a user's types: one with an operator that does not commute, and one of several packets") {
  NEEDS_GPU();
  allfold_test::over_gpus(world_sizes, [](const allfold::Environment& environment, RankGpu& gpu) {
    check_type<user::Third, Packets>(environment, gpu, user::JoinThirds{});
    check_type<user::Wide, Packets>(environment, gpu, allfold::sum);
  });
}
