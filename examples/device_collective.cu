// SPDX-License-Identifier: Apache-2.0
/// One kernel that computes, all-reduces and uses the result: each rank scales its share of a product, the ranks'
/// shares are summed, and the sum is added to a residual. Runs on the GPUs of this machine, one process each.

#include <cstdio>
#include <stdexcept>
#include <vector>

#include <allfold/allfold.cuh>

namespace {

using Comm = allfold::Communicator<allfold::NvlinkTransport>;
using Plan = allfold::DeviceAllReduce<allfold::Reduction<allfold::Sum, float>>;

constexpr std::size_t count = 100000;
constexpr int lanes = 256;

__global__ void __launch_bounds__(lanes)
    fused(const __grid_constant__ Plan plan, float* partial, const float* sum, float scale, float* residual) {
  const allfold::Range mine = plan.block_range(static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
  for (std::size_t i = mine.begin + threadIdx.x; i < mine.end; i += blockDim.x) {
    partial[i] = scale * static_cast<float>(i % 1000);
  }
  if (!allfold::all_reduce(plan)) return;
  for (std::size_t i = mine.begin + threadIdx.x; i < mine.end; i += blockDim.x) residual[i] += sum[i];
}

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

void rank(const allfold::Environment& environment) {
  check(cudaSetDevice(environment.rank));
  Comm comm = Comm::create(environment);
  auto partial = comm.allocate<float>(count);
  auto sum = comm.allocate<float>(count);
  auto residual = comm.allocate<float>(count);
  const Plan plan = comm.device_all_reduce(partial, sum, allfold::sum);

  constexpr int steps = 3;
  for (int step = 0; step < steps; ++step) {
    fused<<<16, lanes>>>(plan, partial.data(), sum.data(), static_cast<float>(comm.rank() + 1), residual.data());
    check(cudaGetLastError());
  }
  std::vector<float> result(count);
  check(cudaMemcpy(result.data(), residual.data(), count * sizeof(float), cudaMemcpyDeviceToHost));
  comm.status();  // throws if a rank did not arrive

  const int world_size = comm.world_size();
  const auto ranks = static_cast<float>(world_size * (world_size + 1) / 2);
  for (std::size_t i = 0; i < count; ++i) {
    if (result[i] != static_cast<float>(steps) * ranks * static_cast<float>(i % 1000)) {
      throw std::runtime_error(allfold::concat({"element ", i, " is wrong"}));
    }
  }
  if (comm.rank() == 0) std::printf("%d ranks: %d fused steps, every element right\n", world_size, steps);
}

}  // namespace

int main() {
  // Asked in a child: CUDA must not be initialized before the ranks are started.
  const auto needs_two = [](const allfold::Environment&) {
    int found = 0;
    check(cudaGetDeviceCount(&found));
    if (found < 2) throw std::runtime_error("this example needs two GPUs");
  };
  if (!allfold::launch_outcomes(1, needs_two).front().ok()) {
    std::puts("skipped: this example needs two GPUs");
    return 77;
  }
  allfold::launch(2, rank);
}
