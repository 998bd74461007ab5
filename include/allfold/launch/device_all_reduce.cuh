// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/symmetric/call.hpp>
#include <allfold/algo/symmetric/one_shot.hpp>
#include <allfold/algo/symmetric/one_shot_push.hpp>
#include <allfold/launch/cuda_channel.cuh>

namespace allfold {

inline namespace ALLFOLD_ARCH_NAMESPACE {

/// An all-reduce that a kernel of the caller's runs: what `Communicator::device_all_reduce` gives. Trivially copyable,
/// to be passed to the kernel by value (as a `const __grid_constant__` parameter), and good for any number of launches.
template <class Reduction>
struct DeviceAllReduce {
  using value_type = typename Reduction::value_type;

  DeviceChannelView view;
  DeviceCall meta;
  AllReduceCall<Reduction> call;
  int most_blocks = 1;  ///< that a grid may have
  bool pushes = true;   ///< by one_shot_push; else by one_shot

  /// The elements that `block` of `blocks` sends and receives: what it computes before, and uses after, the call.
  ALLFOLD_HD Range block_range(int block, int blocks) const {
    return part_of({0, call.count}, blocks, block, line_grain<value_type>());
  }
};

/// Found by the communicator through the channel.
template <class Reduction>
DeviceAllReduce<Reduction> describe_all_reduce(const CudaChannel& channel, const AllReduceCall<Reduction>& call,
                                               CallRecord record, const EnqueueOptions& options) {
  const DeviceChannelView& view = channel.view();
  const bool pushes = call.inputs.reach != Reach::mapped || call.in == call.out || view.layout.world_size == 2;
  record.algorithm = pushes ? Algorithm::one_shot_push : Algorithm::one_shot;
  return {view, channel.describe(record, options.timeout), call, channel.most_blocks(), pushes};
}

/// Runs the all-reduce in the caller's kernel: one_shot_push where ranks are two or the input is private, else
/// one_shot. Afterwards the block's range of the output holds the result, for all threads of the block.
/// Callable from: whole blocks, of 32 to 512 threads, a multiple of 32, in one dimension; every block of the grid, once
/// per launch; the same grid on every rank, of `most_blocks` at most, and nothing that keeps part of it off the GPU.
/// The call takes about 130 registers: a kernel of more than 256 threads says so by __launch_bounds__, or CUDA may
/// refuse it.
/// Sync: the block's threads meet; blocks do not.   Memory order: what the block wrote to its range before the call is
/// what is sent.
/// Returns false, to all threads, if the grid cannot be, or if the collective failed, as it does where a rank's grid is
/// another or a rank calls something else: then the communicator has ended, the output is not valid, and the
/// communicator's next call, or status(), says why.
template <class Reduction>
__device__ bool all_reduce(const DeviceAllReduce<Reduction>& plan) {
  const bool fits = static_cast<int>(gridDim.x) <= plan.most_blocks && gridDim.y * gridDim.z == 1 &&
                    blockDim.x % 32 == 0 && blockDim.x <= most_threads && blockDim.y * blockDim.z == 1;
  if (!fits) return CudaWait(plan.view, plan.meta, 0, 0).give_up(ErrorCode::usage, plan.view.rank);
  const std::uint32_t epoch = enter_call(plan.view, plan.meta).epoch;
  // Blocks of another number would send other ranges, under the record of this call.
  CudaLane<0> e(plan.view, plan.meta, static_cast<int>(blockDim.x), epoch, gridDim.x * 2654435761U);
  const bool ok = plan.pushes ? one_shot_push(e, plan.call) : one_shot(e, plan.call);
  if (ok) leave_call(plan.view, e.epoch());
  __syncthreads();
  return ok;
}

}  // namespace ALLFOLD_ARCH_NAMESPACE

}  // namespace allfold
