// SPDX-License-Identifier: Apache-2.0

/// What nvcc says of the templates once they are used: every algorithm is instantiated here, for CPU ranks and as
/// kernels.

#include <span>

#include <allfold/allfold.cuh>

namespace {

/// A type that no other translation unit can name.
struct Pair {
  float first;
  float second;
  __host__ __device__ friend Pair operator+(Pair a, Pair b) { return {a.first + b.first, a.second + b.second}; }
};

template <class Reduction>
__global__ void fused(const __grid_constant__ allfold::DeviceAllReduce<Reduction> plan) {
  allfold::all_reduce(plan);
}

__global__ void signalling(const __grid_constant__ allfold::DeviceSignals signals) {
  const auto block = static_cast<int>(blockIdx.x);
  if (!allfold::barrier(signals, block) || threadIdx.x != 0) return;
  const int peer = (signals.rank() + 1) % signals.world_size();
  if (allfold::put_signal(signals, peer, block)) allfold::wait_signal(signals, peer, block);
}

}  // namespace

void one_all_reduce() {
  auto comm = allfold::Communicator<>::create(allfold::environment());
  auto x = comm.allocate<float>(1024);
  comm.all_reduce(x.span(), allfold::sum);
  comm.barrier();
}

void one_all_reduce_of_gpus() {
  auto comm = allfold::Communicator<allfold::NvlinkTransport, allfold::NvmlTopology>::create(allfold::environment());
  auto x = comm.allocate<__nv_bfloat16>(1024);
  comm.all_reduce(x.span(), allfold::sum, {.stream = nullptr});
  comm.barrier();
  fused<<<1, 32>>>(comm.device_all_reduce(x, x, allfold::sum));
  signalling<<<1, 32>>>(comm.device_signals(x));
  auto y = comm.register_buffer(std::span<float>(static_cast<float*>(nullptr), 1024));
  comm.all_reduce(y, allfold::sum);

  using Fixed = allfold::FixedSelector<allfold::Algorithm::two_shot_packet>;
  auto fixed = allfold::Communicator<allfold::NvlinkTransport, Fixed>::create(allfold::environment());
  auto pairs = fixed.allocate<Pair>(1024);
  fixed.all_reduce(pairs.span(), allfold::sum);
}
