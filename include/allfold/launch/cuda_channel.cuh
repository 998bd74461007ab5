// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <allfold/algo/symmetric/all_reduce.hpp>
#include <allfold/base/atomics.hpp>
#include <allfold/base/cuda_arch.cuh>
#include <allfold/base/cuda_check.cuh>
#include <allfold/base/deadline.hpp>
#include <allfold/launch/cuda_functions.cuh>
#include <allfold/launch/cuda_kernels.cuh>
#include <allfold/launch/cuda_shape.hpp>
#include <allfold/memory/control_block.hpp>
#include <allfold/memory/cuda_driver.cuh>
#include <allfold/memory/device_channel.hpp>
#include <allfold/policy/options.hpp>

namespace allfold {

inline namespace ALLFOLD_ARCH_NAMESPACE {

/// One channel of a rank on a GPU. Calls are enqueued and the host goes on; how far the channel has come, the GPU
/// knows. Used by one thread at a time, and by one stream at a time.
class CudaChannel {
 public:
  /// `reports`: [rank] where this process sees the report of each rank. `most_blocks`: of one call, on every rank; that
  /// many fit on each GPU at once, beside those of the other channels.
  CudaChannel(int index, const DeviceChannelView& view, PublishedCall* const* reports, const CudaDriver& driver,
              int device, int most_blocks)
      : view_(view), driver_(driver), functions_(device), device_(device), index_(index), most_blocks_(most_blocks) {
    for (int r = 0; r < view.layout.world_size; ++r) reports_[r] = reports[r];
  }

  const DeviceChannelView& view() const noexcept { return view_; }
  int most_blocks() const noexcept { return most_blocks_; }
  /// How many collectives this rank has enqueued on the channel; a replayed graph counts on the GPU alone.
  std::uint32_t sequence() const noexcept { return sequence_; }

  /// What a kernel is told of a call.
  DeviceCall describe(const CallRecord& record, Duration timeout, bool counts = true) const noexcept {
    return {.record = record,
            .timeout_ns = static_cast<std::uint64_t>(timeout.count()),
            .tag = record.tag(),
            .channel = static_cast<std::uint8_t>(index_),
            .counts = counts};
  }

  /// Enqueues a kernel of (view, DeviceCall), or of (view, DeviceCall, argument).
  ALLFOLD_HIDDEN void enqueue(const void* kernel, GridShape shape, int more_threads, cudaStream_t stream,
                              const DeviceCall& meta, const void* argument = nullptr) {
    if (is_of_current_device(stream)) check_device(meta.record);
    CUlaunchAttribute early = {};
    early.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    early.value.programmaticStreamSerializationAllowed = 1;
    CUlaunchConfig config = {};
    config.gridDimX = static_cast<unsigned>(shape.blocks);
    config.blockDimX = static_cast<unsigned>(shape.lanes + more_threads);
    config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
    config.hStream = named(stream);
    config.attrs = &early;
    config.numAttrs = shape.blocks <= view_.early_blocks ? 1 : 0;
    void* parameters[] = {&view_, const_cast<DeviceCall*>(&meta), const_cast<void*>(argument)};
    CUfunction function = functions_.find(kernel);
    if (function == nullptr) function = functions_.look_up(where(meta.record), kernel);
    const CUresult result = driver_.launch(&config, function, parameters, nullptr);
    if (result != CUDA_SUCCESS) launch_again(meta.record, config, function, parameters, result);
    sequence_ += meta.counts ? 1 : 0;
  }

  /// What `rank` called when it met the failure, for messages. A rank that fails with the others says so within
  /// milliseconds; one that never came says nothing.
  ALLFOLD_COLD CallRecord call_of(int rank, bool) const {
    const PublishedCall& report = *reports_[rank];
    const Deadline deadline = Deadline::after(std::chrono::milliseconds(200));
    while (load_acquire(&report.signal) == 0 && !deadline.expired()) cpu_pause();
    return report.record;
  }

 private:
  /// A default stream: whichever device is current, it is that one's.
  static bool is_of_current_device(cudaStream_t stream) noexcept {
    return stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
  }

  /// The same stream by its name: what null stands for depends on how a file is compiled, and the one that asked for
  /// the driver's function may be another.
  ALLFOLD_HIDDEN static CUstream named(cudaStream_t stream) noexcept {
#if defined(CUDA_API_PER_THREAD_DEFAULT_STREAM)
    return stream == nullptr ? cudaStreamPerThread : stream;
#else
    return stream == nullptr ? cudaStreamLegacy : stream;
#endif
  }

  /// Where the driver refused: this thread may have used no GPU yet, and so have no context. Else it says why.
  ALLFOLD_COLD void launch_again(const CallRecord& record, const CUlaunchConfig& config, CUfunction function,
                                 void** parameters, CUresult refused) const {
    check_device(record);
    if (refused == CUDA_ERROR_INVALID_CONTEXT) {
      check_cuda(where(record), cudaSetDevice(device_), {"device ", device_, " could not be made current"});
      refused = driver_.launch(&config, function, parameters, nullptr);
    }
    driver_.check(where(record), refused,
                  {"the kernel could not be launched; see whether the stream is of device ", device_});
  }

  ALLFOLD_COLD void check_device(const CallRecord& record) const {
    int current = -1;
    if (cudaGetDevice(&current) == cudaSuccess && current == device_) return;
    throw UsageError(where(record),
                     {"the current device is ", current, "; expected ", device_,
                      ", which the communicator was created on; call cudaSetDevice(", device_, ") first"});
  }
  Where where(const CallRecord& record) const noexcept {
    return Where(name(record.operation), view_.rank, view_.layout.world_size);
  }

  DeviceChannelView view_;
  const CudaDriver& driver_;
  CudaFunctions functions_;
  PublishedCall* reports_[max_window_ranks] = {};
  int device_;
  int index_;
  int most_blocks_;
  std::uint32_t sequence_ = 0;
};

namespace launching ALLFOLD_HIDDEN {

/// The worlds that machines have get kernels of their own; the others share one.
template <Algorithm A, class Reduction>
const void* kernel_for(int world_size) {
  if constexpr (A != Algorithm::hybrid_cube_mesh && !sends_packets(A)) {
    if (world_size == 2) return reinterpret_cast<const void*>(&all_reduce_kernel<A, 2, Reduction>);
    if (world_size == 4) return reinterpret_cast<const void*>(&all_reduce_kernel<A, 4, Reduction>);
    if (world_size == 8) return reinterpret_cast<const void*>(&all_reduce_kernel<A, 8, Reduction>);
  }
  return reinterpret_cast<const void*>(&all_reduce_kernel<A, 0, Reduction>);
}

template <Algorithm A, class Reduction>
const void* brief_kernel_for(int world_size) {
  switch (world_size) {
    case 2: return reinterpret_cast<const void*>(&brief_all_reduce_kernel<A, 2, Reduction>);
    case 4: return reinterpret_cast<const void*>(&brief_all_reduce_kernel<A, 4, Reduction>);
    case 8: return reinterpret_cast<const void*>(&brief_all_reduce_kernel<A, 8, Reduction>);
    default: return reinterpret_cast<const void*>(&brief_all_reduce_kernel<A, 0, Reduction>);
  }
}

/// For the worlds of PacketSlots::has_wide.
template <Algorithm A, class Reduction>
const void* wide_kernel_for(int world_size, int packets_of_lane) {
  static_assert(wide_packets_of_lane(0, 2) == 2);
  if (world_size == 2) return reinterpret_cast<const void*>(&wide_all_reduce_kernel<A, 2, 2, Reduction>);
  if (packets_of_lane == 1) return reinterpret_cast<const void*>(&wide_all_reduce_kernel<A, 4, 1, Reduction>);
  return reinterpret_cast<const void*>(&wide_all_reduce_kernel<A, 4, 2, Reduction>);
}

/// Whether each lane of the grid has one unit of packets at most, of whole words. A rank whose memory is not aligned so
/// runs the long kernel on the same grid, which sends the same packets.
template <Algorithm A, class Reduction>
bool is_brief(const AllReduceCall<Reduction>& call, GridShape shape, int world_size) noexcept {
  using T = typename Reduction::value_type;
  using Unit = PacketUnit<T>;
  const auto address = reinterpret_cast<std::uintptr_t>(call.in) | reinterpret_cast<std::uintptr_t>(call.out);
  const auto lanes = static_cast<std::size_t>(shape.blocks * shape.lanes);
  const std::size_t most =
      lanes * Unit::elems * (A == Algorithm::two_shot_packet ? static_cast<std::size_t>(world_size) : 1);
  return call.count != 0 && call.count <= most && ((address | call.count * sizeof(T)) & 3U) == 0 &&
         shape.lanes * Unit::packets <= static_cast<int>(PacketSlots::packet_room);
}

/// Whether the call is of whole, aligned vectors, and long enough that wide packets pay. All ranks have to answer
/// alike: others understand nothing of a rank's wide packets. Of private memory each rank knows its own alone.
template <Algorithm A, class Reduction>
bool suits_wide(const AllReduceCall<Reduction>& call, int world_size, int most_blocks) noexcept {
  const std::size_t bytes = call.count * sizeof(typename Reduction::value_type);
  return PacketSlots::has_wide(world_size) && bytes >= wide_from_bytes(A, world_size, most_blocks) &&
         (bytes & 15U) == 0 && call.inputs.reach == Reach::mapped && call.outputs.reach == Reach::mapped &&
         start_at_vectors(call.inputs.at, world_size) && start_at_vectors(call.outputs.at, world_size);
}

/// A call that does not fit one round of wide packets is several.
template <Algorithm A, class Reduction>
void enqueue_wide(CudaChannel& channel, const AllReduceCall<Reduction>& call, DeviceCall meta, cudaStream_t stream) {
  using T = typename Reduction::value_type;
  const int ranks = channel.view().layout.world_size;
  const std::size_t bytes = call.count * sizeof(T);
  const WidePlan plan = WidePlan::of(A, bytes, ranks, channel.most_blocks());
  for (std::size_t begin = 0; begin < bytes; begin += plan.round_bytes) {
    const std::size_t round_bytes = std::min(plan.round_bytes, bytes - begin);
    AllReduceCall<Reduction> round = call;  // packets look at no peer's buffers
    round.count = round_bytes / sizeof(T);
    round.in += begin / sizeof(T);
    round.out += begin / sizeof(T);
    channel.enqueue(wide_kernel_for<A, Reduction>(ranks, plan.packets_of_lane), plan.shape(round_bytes), watch_threads,
                    stream, meta, &round);
    meta.counts = false;
  }
}

template <Algorithm A, class Reduction>
void enqueue_all_reduce(CudaChannel& channel, const AllReduceCall<Reduction>& call, const DeviceCall& meta,
                        cudaStream_t stream) {
  const int ranks = channel.view().layout.world_size;
  const std::size_t bytes = call.count * sizeof(typename Reduction::value_type);
  const void* kernel = nullptr;
  if constexpr (sends_packets(A) && 16 % sizeof(typename Reduction::value_type) == 0) {
    if (suits_wide<A>(call, ranks, channel.most_blocks())) return enqueue_wide<A>(channel, call, meta, stream);
  }
  const GridShape shape = device_shape(A, bytes, ranks, channel.most_blocks());
  if constexpr (sends_packets(A) && PacketUnit<typename Reduction::value_type>::has_whole_words) {
    if (is_brief<A>(call, shape, ranks)) kernel = brief_kernel_for<A, Reduction>(ranks);
  }
  if (kernel == nullptr) kernel = kernel_for<A, Reduction>(ranks);
  channel.enqueue(kernel, shape, sends_packets(A) ? watch_threads : 0, stream, meta, &call);
}

}  // namespace launching ALLFOLD_HIDDEN

/// Enqueues an all-reduce of GPU ranks on the stream. Found by the communicator through its argument.
template <AlgorithmSet Set, class Reduction>
std::optional<Failure> launch_all_reduce(CudaChannel& channel, Candidates<Set>, Algorithm algorithm,
                                         const AllReduceCall<Reduction>& call, const CallRecord& record,
                                         const EnqueueOptions& options) {
  const DeviceCall meta = channel.describe(record, options.timeout);
  if (algorithm == Algorithm::none) algorithm = Algorithm::two_shot;  // a set with either has both
  const auto if_it_is = [&]<Algorithm A>() {
    if constexpr (Set.contains(A) || (A == Algorithm::two_shot && Set.contains(Algorithm::none))) {
      if (algorithm == A) launching::enqueue_all_reduce<A>(channel, call, meta, options.stream);
    }
  };
  if_it_is.template operator()<Algorithm::one_shot>();
  if_it_is.template operator()<Algorithm::one_shot_packet>();
  if_it_is.template operator()<Algorithm::two_shot>();
  if_it_is.template operator()<Algorithm::two_shot_packet>();
  if_it_is.template operator()<Algorithm::one_shot_push>();
  if_it_is.template operator()<Algorithm::two_shot_push>();
  if_it_is.template operator()<Algorithm::hybrid_cube_mesh>();
  return std::nullopt;
}

/// The same for a barrier, of all ranks or of those that the record names. `counts`: it is one of the user's calls.
inline std::optional<Failure> launch_barrier(CudaChannel& channel, const CallRecord& record,
                                             const EnqueueOptions& options, bool counts = true) {
  channel.enqueue(reinterpret_cast<const void*>(&barrier_kernel<0>), {1, 32}, 0, options.stream,
                  channel.describe(record, options.timeout, counts));
  return std::nullopt;
}

}  // namespace ALLFOLD_ARCH_NAMESPACE

}  // namespace allfold
