// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <allfold/base/cuda_arch.cuh>
#include <allfold/exec/cuda_ptx.cuh>
#include <allfold/exec/cuda_wait.cuh>
#include <allfold/launch/cuda_channel.cuh>
#include <allfold/memory/device_channel.hpp>
#include <allfold/memory/signal_pad.hpp>

namespace allfold {

inline namespace ALLFOLD_ARCH_NAMESPACE {

/// The signal pads of one symmetric allocation, for kernels of the caller's: what `Communicator::device_signals` gives.
/// Trivially copyable, to be passed to kernels by value (as a `const __grid_constant__` parameter), and good for any
/// number of launches, captured ones too, as long as the communicator and the allocation live.
struct DeviceSignals {
  DeviceChannelView view;
  DeviceCall call;
  std::uint32_t* pad[max_window_ranks] = {};  ///< [rank] where this rank's GPU reaches that rank's pad

  ALLFOLD_HD int rank() const noexcept { return view.rank; }
  ALLFOLD_HD int world_size() const noexcept { return view.layout.world_size; }
};

/// Found by the communicator through the channel. `serial`: of the allocation.
inline DeviceSignals describe_signals(const CudaChannel& channel, std::span<std::uint32_t* const> pads,
                                      std::uint64_t serial, const EnqueueOptions& options) {
  const CallRecord record{.operation = Operation::signal, .in = {.window = serial}};
  DeviceSignals signals{channel.view(), channel.describe(record, options.timeout, false)};
  for (std::size_t r = 0; r < pads.size(); ++r) signals.pad[r] = pads[r];
  return signals;
}

namespace signalling {

/// The word by which `from` signals to `to`; null if there is no such rank or slot.
inline __device__ std::uint32_t* signal_word_of(const DeviceSignals& signals, int to, int from, int slot) {
  const bool exists = static_cast<unsigned>(slot) < static_cast<unsigned>(signal_slots) &&
                      static_cast<unsigned>(to) < static_cast<unsigned>(signals.world_size()) &&
                      static_cast<unsigned>(from) < static_cast<unsigned>(signals.world_size());
  return exists ? signals.pad[to] + signal_word(slot, from) : nullptr;
}

/// Waits until a word that `peer` writes has the value. The call that reports a failure names the slot, so it is a
/// copy: out of line, for whoever finds the value there at once.
template <std::uint32_t Value>
__device__ __noinline__ bool await_word(const DeviceSignals& signals, const std::uint32_t* word, int peer, int slot) {
  DeviceCall call = signals.call;
  call.record.count = static_cast<std::uint64_t>(slot);
  CudaWait wait(signals.view, call, 0, 0);
  if (word == nullptr) {
    const bool exists = static_cast<unsigned>(peer) < static_cast<unsigned>(signals.world_size());
    return wait.give_up(ErrorCode::usage, exists ? peer : Failure::no_rank);
  }
  return wait.until([&] { return ptx::load_acquire(word) == Value ? Arrival::here : Arrival::not_yet; },
                    [&] { return peer; });
}

template <std::uint32_t Value>
__device__ bool has_come_to(const DeviceSignals& signals, const std::uint32_t* word, int peer, int slot) {
  if (word != nullptr && ptx::load_acquire(word) == Value) return true;
  return await_word<Value>(signals, word, peer, slot);
}

}  // namespace signalling

/// Signals to `peer` in `slot`: waits until the peer has taken this rank's last signal there, and sets the word to 1.
/// Callable from: one thread at a time for each peer and slot, 0 to signal_slots - 1.   Memory order: release, system
/// scope: what this thread did before, and what it has seen of others (by __syncthreads), the peer sees after its wait.
/// Returns false if the communicator has ended, or does now: the peer did not take the last signal in time. Then the
/// communicator's next call, or status(), says why.
inline __device__ bool put_signal(const DeviceSignals& signals, int peer, int slot) {
  std::uint32_t* const word = signalling::signal_word_of(signals, peer, signals.rank(), slot);
  if (!signalling::has_come_to<0>(signals, word, peer, slot)) return false;
  ptx::store_release(word, 1U);
  return true;
}

/// Takes a signal of `peer` in `slot`: waits for it, and sets the word back to 0.
/// Callable from: one thread at a time for each peer and slot.   Memory order: acquire, system scope.
/// Returns false, as put_signal does: the peer did not signal in time.
inline __device__ bool wait_signal(const DeviceSignals& signals, int peer, int slot) {
  std::uint32_t* const word = signalling::signal_word_of(signals, signals.rank(), peer, slot);
  if (!signalling::has_come_to<1>(signals, word, peer, slot)) return false;
  ptx::store_relaxed(word, 0U);
  return true;
}

/// The calling block meets one block of every peer: the one that calls it with the same slot. Blocks that may meet at
/// the same time need slots of their own: blockIdx.x serves.
/// Callable from: whole blocks of one dimension; all blocks that others wait for must fit the GPU at once.   Sync: the
/// threads of the block meet.   Memory order: what any thread of the blocks did before is visible to all of them after.
/// Returns false to all threads, as put_signal does.
inline __device__ bool barrier(const DeviceSignals& signals, int slot) {
  __syncthreads();
  const int threads = static_cast<int>(blockDim.x);
  bool ok = true;
  for (int peer = static_cast<int>(threadIdx.x); peer < signals.world_size() && ok; peer += threads) {
    if (peer != signals.rank()) ok = put_signal(signals, peer, slot);
  }
  for (int peer = static_cast<int>(threadIdx.x); peer < signals.world_size() && ok; peer += threads) {
    if (peer != signals.rank()) ok = wait_signal(signals, peer, slot);
  }
  return __syncthreads_and(static_cast<int>(ok)) != 0;
}

}  // namespace ALLFOLD_ARCH_NAMESPACE

}  // namespace allfold
