// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <allfold/base/cuda_arch.cuh>
#include <allfold/exec/cuda_ptx.cuh>
#include <allfold/memory/control_block.hpp>
#include <allfold/memory/device_channel.hpp>

namespace allfold {

/// How one lane of a kernel waits: for a bounded time, and with an eye on the abort word. A collective that fails ends
/// on all ranks; nothing traps, so the CUDA context survives.
class CudaWait {
 public:
  /// `more_tag`: what ranks have to agree on besides the call's record.
  ALLFOLD_DEVICE CudaWait(const DeviceChannelView& view, const DeviceCall& call, int block, std::uint32_t first_epoch,
                          std::uint32_t more_tag = 0)
      : view_(view), call_(call), block_(block), first_epoch_(first_epoch), more_tag_(more_tag) {}

  ALLFOLD_DEVICE std::uint32_t tag() const { return call_.tag + more_tag_; }

  /// Polls `look()` until it sees an arrival; `peer()` is whom it waits for. False: the collective failed.
  template <class Look, class Peer>
  ALLFOLD_DEVICE bool until(Look&& look, Peer&& peer) {
    // Not unrolled, here and below: a small call runs each instruction once, and most of its time goes into fetching
    // them.
#pragma unroll 1
    for (unsigned looks = 1;; ++looks) {
      const Arrival now = look();
      if (now == Arrival::here) return true;
      if (now == Arrival::mismatched) return fail(view_, call_, ErrorCode::mismatch, peer());
      if (__builtin_expect(looks % looks_between_checks != 0, 1)) continue;
      since_ = look_around(view_, call_, block_, make_signal(first_epoch_, tag()), since_, peer());
      if (since_ == failed) return look() == Arrival::here;  // the failure may be of a later call
    }
  }

  /// Ends the communicator, with `source` to blame. Always false.
  ALLFOLD_DEVICE bool give_up(ErrorCode code, int source) const { return fail(view_, call_, code, source); }

  /// Until `from` has written `expected` to `word`, or a later epoch.
  ALLFOLD_DEVICE bool until(const std::uint64_t* word, std::uint64_t expected, int from) {
    return until([&] { return arrival(ptx::load_acquire(word), expected); }, [&] { return from; });
  }

 private:
  /// About a millisecond of looks.
  static constexpr unsigned looks_between_checks = 1024;
  static constexpr std::uint64_t failed = ~std::uint64_t{0};

  // The slow path is made of static functions: through `this` they would keep the lane's state out of registers.

  /// Looks for what could keep the peer from ever arriving. `first`: the signal of the call's first round. Returns
  /// since when the lane has waited, or `failed`.
  static __device__ __noinline__ std::uint64_t look_around(const DeviceChannelView& view, const DeviceCall& call,
                                                           int block, std::uint64_t first, std::uint64_t since,
                                                           int peer) {
    const std::uint64_t abort = ptx::load_relaxed(view.abort);
    if (abort != 0) {
      report(view, call, abort);
      return failed;
    }
    // How far the ranks are in the calls of all ranks, as against this one: at any round of it, if they have entered
    // it. A rank that has not is late, rather than the peer, which may wait for it too.
    int late = peer;
    for (int r = view.layout.world_size - 1; r >= 0 && is_of_all(call); --r) {
      if (r == view.rank) continue;
      const Arrival entered =
          arrival(ptx::load_acquire(view.signal(view.rank, block, Leg::start, r)), first, any_epochs_ahead);
      if (entered == Arrival::not_yet) late = r;
      if (entered != Arrival::mismatched) continue;
      fail(view, call, ErrorCode::mismatch, r);
      return failed;
    }
    const std::uint64_t now = ptx::now_ns();
    if (since == 0) return now;
    if (now - since < call.timeout_ns) return since;
    fail(view, call, ErrorCode::timeout, late);
    return failed;
  }

  /// Always false.
  static __device__ __noinline__ bool fail(const DeviceChannelView& view, const DeviceCall& call, ErrorCode code,
                                           int source) {
    const Failure failure{.code = code,
                          .source = static_cast<std::uint8_t>(source),
                          .by = static_cast<std::uint8_t>(view.rank),
                          .channel = call.channel,
                          .group = is_group(call),
                          .source_group = is_group(call),
                          .departed = false,
                          .sequence = view.state(0)->calls};
    const std::uint64_t mine = failure.pack();
    const std::uint64_t former = ptx::replace_zero(view.abort, mine);
    report(view, call, former == 0 ? mine : former);
    return false;
  }

  /// Tells this rank's host which failure stands, and in which call it was met: calls that were enqueued behind that
  /// one meet it too, and leave the report alone. Lanes that do so at once write the same.
  static __device__ void report(const DeviceChannelView& view, const DeviceCall& call, std::uint64_t standing) {
    if (ptx::load_relaxed(&view.report->signal) == 0) {
      view.report->record = call.record;
      __threadfence_system();
      ptx::store_release(&view.report->signal, standing);
    }
    ptx::store_release(view.host_abort, standing);
  }

  /// One of the calls that all ranks make, whose signals say how far each has come.
  static __device__ bool is_of_all(const DeviceCall& call) {
    return !is_group(call) && call.record.operation != Operation::signal;
  }
  static __device__ bool is_group(const DeviceCall& call) { return call.record.operation == Operation::group_barrier; }

  const DeviceChannelView& view_;
  const DeviceCall& call_;
  int block_;
  std::uint32_t first_epoch_;
  std::uint32_t more_tag_;
  std::uint64_t since_ = 0;
};

}  // namespace allfold
