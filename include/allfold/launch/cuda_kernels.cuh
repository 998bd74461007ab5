// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <allfold/algo/symmetric/all_reduce.hpp>
#include <allfold/algo/symmetric/barrier.hpp>
#include <allfold/base/cuda_arch.cuh>
#include <allfold/exec/cuda_lane.cuh>
#include <allfold/exec/cuda_wide_lane.cuh>
#include <allfold/launch/cuda_shape.hpp>
#include <allfold/memory/device_channel.hpp>

namespace allfold {

inline namespace ALLFOLD_ARCH_NAMESPACE {

static_assert(executor<CudaLane<2>>);

/// What every kernel of the library begins with: waits for the grids before it, and tells what the block goes on from.
inline __device__ BlockState enter_call(const DeviceChannelView& view, const DeviceCall& call) {
  ptx::wait_for_grids_before();
  BlockState* const state = view.state(static_cast<int>(blockIdx.x));
  const BlockState last = *state;  // but `calls`, which only one lane looks at
  if (call.counts && blockIdx.x == 0 && threadIdx.x == 0) ++state->calls;
  __syncthreads();  // all have read the state before the first lane to end writes it
  if (static_cast<int>(gridDim.x) <= view.early_blocks) ptx::let_next_grid_launch();
  return last;
}

/// And what it ends with, after a sync of its lanes.
inline __device__ void leave_call(const DeviceChannelView& view, std::uint32_t epoch) {
  if (threadIdx.x == 0) view.state(static_cast<int>(blockIdx.x))->epoch = epoch;
}

/// What the watch of a block does beside packets: tells the peers' blocks that this one is in the call, which call it
/// is, and waits for theirs. So ranks that call different things get an error, and a call that has ended here has begun
/// everywhere, which is what lets two sets of packets suffice.
inline __device__ void watch_call(const DeviceChannelView& view, const DeviceCall& call, std::uint32_t last_epoch) {
  const int peer = static_cast<int>(threadIdx.x % watch_threads);
  if (peer >= view.layout.world_size || peer == view.rank) return;
  const int block = static_cast<int>(blockIdx.x);
  const std::uint64_t word = make_signal(last_epoch + 1, call.tag);
  ptx::store_relaxed(view.signal(peer, block, Leg::start, view.rank), word);
  const std::uint64_t* const theirs = view.signal(view.rank, block, Leg::start, peer);
  CudaWait(view, call, block, last_epoch + 1)
      .until([&] { return arrival(ptx::load_relaxed(theirs), word); }, [&] { return peer; });
}

/// A call in packets that is one round.
template <Algorithm A, class Lane, class Reduction>
__device__ bool only_packet_round(Lane& e, const AllReduceCall<Reduction>& call) {
  const Range all{0, call.count & 0x7fffffffU};  // such a call is short, and the compiler may know it
  return A == Algorithm::one_shot_packet ? one_shot_packet_round(e, call, all) : two_shot_packet_round(e, call, all);
}

ALLFOLD_KERNELS_BEGIN

template <Algorithm A, int World, class Reduction>
ALLFOLD_KERNEL void __launch_bounds__(most_threads, 1)
    all_reduce_kernel(const __grid_constant__ DeviceChannelView view, const __grid_constant__ DeviceCall meta,
                      const __grid_constant__ AllReduceCall<Reduction> call) {
  const std::uint32_t epoch = enter_call(view, meta).epoch;
  const int lanes = static_cast<int>(blockDim.x) - (sends_packets(A) ? watch_threads : 0);
  if (sends_packets(A) && static_cast<int>(threadIdx.x) >= lanes) {
    watch_call(view, meta, epoch);
    return;
  }
  CudaLane<World> e(view, meta, lanes, epoch);
  if (all_reduce(e, Candidates<AlgorithmSet::of(A)>{}, A, call)) leave_call(view, e.epoch());
}

/// An algorithm that sends packets, for calls of one round in which each lane has one unit at most, of whole words.
template <Algorithm A, int World, class Reduction>
ALLFOLD_KERNEL void __launch_bounds__(most_threads, 1)
    brief_all_reduce_kernel(const __grid_constant__ DeviceChannelView view, const __grid_constant__ DeviceCall meta,
                            const __grid_constant__ AllReduceCall<Reduction> call) {
  const std::uint32_t epoch = enter_call(view, meta).epoch;
  const int lanes = static_cast<int>(blockDim.x) - watch_threads;
  if (__builtin_expect(static_cast<int>(threadIdx.x) >= lanes, 0)) {
    watch_call(view, meta, epoch);
    return;
  }
  CudaLane<World, true> e(view, meta, lanes, epoch);
  e.template plan_brief<typename Reduction::value_type>();
  e.begin_round();
  if (e.sync(only_packet_round<A>(e, call))) leave_call(view, e.epoch());
}

/// The same with wide packets, of each lane so many at a time, for calls of one round of vectors.
template <Algorithm A, int World, int PacketsOfLane, class Reduction>
ALLFOLD_KERNEL void __launch_bounds__(most_threads, 1)
    wide_all_reduce_kernel(const __grid_constant__ DeviceChannelView view, const __grid_constant__ DeviceCall meta,
                           const __grid_constant__ AllReduceCall<Reduction> call) {
  const BlockState last = enter_call(view, meta);
  const int lanes = static_cast<int>(blockDim.x) - watch_threads;
  if (__builtin_expect(static_cast<int>(threadIdx.x) >= lanes, 0)) {
    watch_call(view, meta, last.epoch);
    return;
  }
  CudaWideLane<World, PacketsOfLane> e(view, meta, lanes, last);
  e.template plan_wide<typename Reduction::value_type>();
  e.begin_round();
  if (e.sync(only_packet_round<A>(e, call)) && threadIdx.x == 0) e.leave(*view.state(static_cast<int>(blockIdx.x)));
}

/// One block. A barrier of a group leaves the epochs of the channel alone.
template <int World>
ALLFOLD_KERNEL void barrier_kernel(const __grid_constant__ DeviceChannelView view,
                                   const __grid_constant__ DeviceCall meta) {
  const std::uint32_t epoch = enter_call(view, meta).epoch;
  CudaLane<World> e(view, meta, static_cast<int>(blockDim.x), epoch);
  if (meta.record.operation != Operation::group_barrier) {
    if (barrier(e)) leave_call(view, e.epoch());
  } else if (group_barrier(e, meta.record.group)) {
    const auto peer = static_cast<int>(threadIdx.x);
    if (peer < view.layout.world_size && has_rank(meta.record.group, peer)) ++view.group_epochs()[peer];
  }
}

ALLFOLD_KERNELS_END

}  // namespace ALLFOLD_ARCH_NAMESPACE

}  // namespace allfold
