// SPDX-License-Identifier: Apache-2.0
// A program of which two libraries include allfold too. Each has its own CUDA runtime, which knows its own kernels
// alone, while the dynamic linker gives all three one copy of what they all have.
#include <cuda_runtime.h>
#include <doctest/doctest.h>

#include <allfold/allfold.cuh>

#include <support/gpu_ranks.cuh>

#include "library/sum_in_library.hpp"

using allfold_test::RankGpu;

TEST_CASE("a program and its libraries each launch their own kernels") {
  NEEDS_GPU();
  allfold_test::over_gpu_processes({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    const allfold::Options options = allfold_test::gpu_options();
    for (int times = 0; times < 2; ++times) {
      EXPECT(allfold_test::sum_in_library<float>(environment, options) == 3);
      EXPECT(allfold_test::sum_in_library<int>(environment, options) == 3);
      using Comm =
          allfold::Communicator<allfold::NvlinkTransport, allfold::FixedSelector<allfold::Algorithm::one_shot>>;
      Comm comm = Comm::create(environment, options);
      auto x = comm.allocate<double>(1);
      double value = environment.rank + 1;
      gpu.copy(x.data(), &value, sizeof value);
      comm.all_reduce(x, allfold::sum, {.stream = gpu.stream()});
      gpu.copy(&value, x.data(), sizeof value);
      EXPECT(value == 3);
      comm.status();
      gpu.meet();
    }
  });
}
