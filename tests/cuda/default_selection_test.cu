// SPDX-License-Identifier: Apache-2.0
// What a user gets who names no selector: sizes on both sides of every step of the built-in table, checked bit by bit.
#include <algorithm>
#include <cstddef>
#include <set>
#include <span>

#include <cuda_bf16.h>
#include <doctest/doctest.h>

#include <allfold/allfold.cuh>

#include <support/gpu_all_reduce.cuh>

using allfold::Algorithm;
using allfold_test::RankGpu;

namespace {

using T = __nv_bfloat16;
using Comm = allfold::Communicator<allfold::NvlinkTransport>;
using Checks = allfold_test::GpuChecks<T, allfold::Sum>;

/// Longer than the last step.
constexpr std::size_t most = (std::size_t{17} << 20) / sizeof(T);

/// Elements of one vector less than a step, of the step, and of one vector more; and what is longer than any.
std::set<std::size_t> counts_around_steps(int world_size, bool symmetric) {
  constexpr std::size_t vector_elems = 16 / sizeof(T);
  std::set<std::size_t> counts{1, vector_elems, most - 1, most};
  for (const allfold::TuningRow& row : allfold::default_tuning_table(true)) {
    if (row.world_size != world_size || row.symmetric != symmetric) continue;
    const std::size_t step = row.up_to_bytes / sizeof(T);
    for (const std::size_t count : {step - vector_elems, step - 1, step, step + 1, step + vector_elems}) {
      if (count <= most) counts.insert(count);
    }
  }
  return counts;
}

}  // namespace

TEST_CASE("without a selector of one's own: both sides of every step of the table") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Checks checks(gpu, environment, allfold::sum, most, 20261122);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    const auto in = comm.allocate<T>(Checks::room(most));
    const auto out = comm.allocate<T>(Checks::room(most));
    std::set<Algorithm> chosen;
    for (const std::size_t count : counts_around_steps(environment.world_size, true)) {
      chosen.insert(comm.would_choose(in.span().subspan(allfold_test::guard_elems, count),
                                      out.span().subspan(allfold_test::guard_elems, count)));
      checks.check(comm, in.span(), 0, out.span(), 0, count, {});
      checks.check(comm, out.span(), 0, out.span(), 0, count, {});
      checks.check(comm, in.span(), 1, out.span(), 0, count, {});
    }
    for (const std::size_t count : counts_around_steps(environment.world_size, false)) {
      chosen.insert(comm.would_choose<T>(count));
      checks.check_counts(comm, {count});
    }
    // Every algorithm that the table has for this world was one of them.
    for (const allfold::TuningRow& row : allfold::default_tuning_table(true)) {
      EXPECT(row.world_size != environment.world_size || chosen.contains(row.algorithm));
    }
    gpu.meet();
  });
}

TEST_CASE("the longest call in packets, of one round with all blocks, and of several where two channels share them") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    std::size_t longest = 0;
    for (const allfold::TuningRow& row : allfold::default_tuning_table(true)) {
      if (row.world_size == environment.world_size && row.symmetric && allfold::sends_packets(row.algorithm)) {
        longest = std::max(longest, row.up_to_bytes / sizeof(T));
      }
    }
    Checks checks(gpu, environment, allfold::sum, longest, 20261123);
    for (const int channels : {1, 2}) {
      allfold::Options options = allfold_test::gpu_options();
      options.channels = channels;
      Comm comm = Comm::create(environment, options);
      const auto in = comm.allocate<T>(Checks::room(longest));
      const auto out = comm.allocate<T>(Checks::room(longest));
      for (int channel = 0; channel < channels; ++channel) {
        checks.check(comm, in.span(), 0, out.span(), 0, longest, {.channel = channel});
      }
      gpu.meet();
    }
  });
}
