// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/executor.hpp>
#include <allfold/exec/cuda_fold.cuh>
#include <allfold/exec/cuda_packets.cuh>
#include <allfold/exec/cuda_ptx.cuh>
#include <allfold/exec/cuda_wait.cuh>
#include <allfold/memory/device_channel.hpp>

namespace allfold {

/// The executor of GPU ranks: one thread of a kernel is one lane. See algo/executor.hpp for what each member promises.
/// Most: the world has no more ranks, so that what a lane holds of each rank stays in registers.
template <int Most>
class CudaLane {
 public:
  /// `lanes`: of the block, a multiple of 32; its threads after them are no lanes.
  ALLFOLD_DEVICE CudaLane(const DeviceChannelView& view, const DeviceCall& call, int lanes, std::uint32_t last_epoch)
      : view_(view),
        wait_(view, call, static_cast<int>(blockIdx.x), last_epoch + 1),
        lanes_(lanes),
        packet_lanes_(lanes),
        epoch_(last_epoch) {}

  ALLFOLD_DEVICE int rank() const { return view_.rank; }
  ALLFOLD_DEVICE int world_size() const { return view_.layout.world_size; }
  ALLFOLD_DEVICE int block() const { return static_cast<int>(blockIdx.x); }
  ALLFOLD_DEVICE int blocks() const { return static_cast<int>(gridDim.x); }
  ALLFOLD_DEVICE int lane() const { return static_cast<int>(threadIdx.x); }
  ALLFOLD_DEVICE int lanes() const { return lanes_; }

  ALLFOLD_DEVICE void begin_round() { ++epoch_; }
  /// The epoch of the current round; after the last round, what the block goes on from.
  ALLFOLD_DEVICE std::uint32_t epoch() const { return epoch_; }

  ALLFOLD_DEVICE bool sync(bool ok) { return ptx::sync_lanes(lanes_, ok); }

  ALLFOLD_DEVICE void signal(int peer, Leg leg) {
    ptx::store_release(view_.signal(peer, block(), leg, rank()), expected(peer, leg));
  }
  ALLFOLD_DEVICE bool wait(int peer, Leg leg, int behind) {
    const std::uint64_t word = expected(peer, leg) - make_signal(static_cast<std::uint32_t>(behind), 0);
    return wait_.until(view_.signal(rank(), block(), leg, peer), word, peer);
  }

  ALLFOLD_DEVICE Buffer staging(std::size_t offset) const { return view_.staging_buffer(offset); }
  ALLFOLD_DEVICE std::size_t staging_bytes() const { return view_.layout.staging_bytes; }
  ALLFOLD_DEVICE void* inbox(int of, int slot) const { return view_.inbox(of, block(), slot); }
  ALLFOLD_DEVICE std::size_t inbox_slot_bytes() const { return view_.layout.inbox_slot_bytes; }

  ALLFOLD_DEVICE void copy(void* to, const void* from, std::size_t bytes) const {
    copy_block(to, from, bytes, lane(), lanes_);
  }

  template <class Fold>
  ALLFOLD_DEVICE void fold(const Fold& fold, const Buffer& sources, const Operands& operands, const Buffer& targets,
                           RankMask mask, std::size_t n) const {
    FoldPlan<Fold, Most> plan;
    plan.sources = operands.count;
    plan.targets = 0;
#pragma unroll
    for (int o = 0; o < Most; ++o) {
      plan.from[o] = o < operands.count ? static_cast<const typename Fold::source*>(sources.at[operands.rank[o]])
                                        : nullptr;
    }
    // This rank's own memory first, then its neighbour's: so ranks store to different peers at a time. The mask is of
    // this rank alone, or of all.
#pragma unroll
    for (int i = 0; i < Most; ++i) {
      const int r = nth_rank(i);
      const bool taken = i < world_size() && has_rank(mask, r);
      plan.to[i] = taken ? static_cast<typename Fold::result*>(targets.at[r]) : nullptr;
      plan.targets += taken ? 1 : 0;
    }
    fold_block(fold, plan, n, lane(), lanes_);
  }

  template <class T>
  ALLFOLD_DEVICE void plan_packets(std::size_t, int parts) {
    using Unit = PacketUnit<T>;
    packet_elems_ = Unit::elems;
    const int room = view_.layout.packets / Unit::packets;
    packet_lanes_ = lanes_ < room ? lanes_ : room;
    const int units = room / packet_lanes_ * packet_lanes_;  // of one block and range
    packet_round_ = static_cast<std::size_t>(units) * static_cast<std::size_t>(blocks() * parts) * Unit::elems;
  }
  ALLFOLD_DEVICE std::size_t packet_elems() const { return packet_elems_; }
  ALLFOLD_DEVICE std::size_t packet_round() const { return packet_round_; }

  template <class T>
  ALLFOLD_DEVICE void post(const T* data, Range range) {
    for_my_units<T>(range.size(), [&](std::size_t slot, std::size_t begin, int n) {
      PacketUnit<T> unit;
      unit.load(data + range.begin + begin, n);
      send_to_peers(Stage::inputs, slot, unit);
      return true;
    });
  }

  template <class T, class ShardOf>
  ALLFOLD_DEVICE void scatter(const T* data, ShardOf&& shard_of) {
    Range shard[Most];
#pragma unroll
    for (int i = 1; i < Most; ++i) shard[i] = i < world_size() ? shard_of(nth_rank(i)) : Range{};
    for_my_units<T>(longest(shard), [&](std::size_t slot, std::size_t begin, int) {
      PacketUnit<T> unit[Most];
#pragma unroll
      for (int i = 1; i < Most; ++i) {
        if (begin < shard[i].size()) unit[i].load(data + shard[i].begin + begin, unit_elems<T>(shard[i], begin));
      }
#pragma unroll
      for (int i = 1; i < Most; ++i) {
        if (begin >= shard[i].size()) continue;
        unit[i].send(view_.packets(nth_rank(i), block(), epoch_, Stage::inputs, rank()) + slot, epoch_);
      }
      return true;
    });
  }

  template <class Fold, class T>
  ALLFOLD_DEVICE bool fold_posted(const Fold& fold, const T* in, Range range, T* out, bool post_result) {
    return for_my_units<T>(range.size(), [&](std::size_t slot, std::size_t begin, int n) {
      PacketUnit<T> unit[Most];
      PacketUnit<T> own;
      own.load(in + range.begin + begin, n);
      if (!receive_all(Stage::inputs, slot, unit, [&](int) { return true; })) return false;
      PacketUnit<T> result;
#pragma unroll
      for (int w = 0; w < PacketUnit<T>::words; ++w) result.word[w] = 0;
#pragma unroll
      for (int e = 0; e < PacketUnit<T>::elems; ++e) {
        const auto operand = [&](int r) { return r == rank() ? own.at(e) : unit[r].at(e); };
        auto sum = fold.first(operand(0));
#pragma unroll
        for (int r = 1; r < Most; ++r) {
          if (r < world_size()) sum = fold.next(sum, operand(r));
        }
        result.set(e, fold.last(sum));
      }
      if (post_result) send_to_peers(Stage::results, slot, result);
      result.store(out + range.begin + begin, n);
      return true;
    });
  }

  template <class T, class ShardOf>
  ALLFOLD_DEVICE bool collect(ShardOf&& shard_of, T* out) {
    Range shard[Most];
#pragma unroll
    for (int r = 0; r < Most; ++r) shard[r] = r < world_size() && r != rank() ? shard_of(r) : Range{};
    return for_my_units<T>(longest(shard), [&](std::size_t slot, std::size_t begin, int) {
      PacketUnit<T> unit[Most];
      if (!receive_all(Stage::results, slot, unit, [&](int r) { return begin < shard[r].size(); })) return false;
#pragma unroll
      for (int r = 0; r < Most; ++r) {
        if (begin < shard[r].size()) unit[r].store(out + shard[r].begin + begin, unit_elems<T>(shard[r], begin));
      }
      return true;
    });
  }

 private:
  ALLFOLD_DEVICE int nth_rank(int n) const {
    return rank() + n < world_size() ? rank() + n : rank() + n - world_size();
  }

  ALLFOLD_DEVICE std::uint64_t expected(int peer, Leg leg) const {
    return make_signal(leg == Leg::group ? view_.group_epochs()[peer] + 1 : epoch_, wait_.tag());
  }

  ALLFOLD_DEVICE static std::size_t longest(const Range (&shard)[Most]) {
    std::size_t most = 0;
#pragma unroll
    for (int i = 0; i < Most; ++i) most = shard[i].size() > most ? shard[i].size() : most;
    return most;
  }

  template <class T>
  ALLFOLD_DEVICE static int unit_elems(const Range& range, std::size_t begin) {
    const std::size_t left = range.size() - begin;
    return left < PacketUnit<T>::elems ? static_cast<int>(left) : PacketUnit<T>::elems;
  }

  /// Walks over the units of `n` elements that are this lane's: `each(slot, first element, elements)`. The lane of a
  /// unit depends on its place in its range alone, in every round and on every rank.
  template <class T, class Each>
  ALLFOLD_DEVICE bool for_my_units(std::size_t n, Each&& each) {
    using Unit = PacketUnit<T>;
    if (lane() >= packet_lanes_) return true;
    const auto stride = static_cast<std::size_t>(blocks() * packet_lanes_) * Unit::elems;
    std::size_t slot = static_cast<std::size_t>(lane()) * Unit::packets;
    std::size_t begin = static_cast<std::size_t>(block() * packet_lanes_ + lane()) * Unit::elems;
    for (; begin < n; begin += stride, slot += static_cast<std::size_t>(packet_lanes_) * Unit::packets) {
      if (!each(slot, begin, unit_elems<T>({0, n}, begin))) return false;
    }
    return true;
  }

  template <class Unit>
  ALLFOLD_DEVICE void send_to_peers(Stage stage, std::size_t slot, const Unit& unit) {
#pragma unroll
    for (int i = 1; i < Most; ++i) {
      if (i < world_size()) unit.send(view_.packets(nth_rank(i), block(), epoch_, stage, rank()) + slot, epoch_);
    }
  }

  /// Receives a unit from each peer for which `expects` says so: all are looked at before any is waited for.
  template <class Unit, class Expects>
  ALLFOLD_DEVICE bool receive_all(Stage stage, std::size_t slot, Unit (&unit)[Most], Expects&& expects) {
    int missing = 0;
    const auto look = [&] {
      bool all = true;
#pragma unroll
      for (int r = 0; r < Most; ++r) {
        if (r >= world_size() || r == rank() || !expects(r)) continue;
        const bool here = unit[r].receive(view_.packets(rank(), block(), epoch_, stage, r) + slot, epoch_);
        missing = here ? missing : r;
        all = all && here;
      }
      return all ? Arrival::here : Arrival::not_yet;
    };
    return wait_.until(look, [&] { return missing; });
  }

  const DeviceChannelView& view_;
  CudaWait wait_;
  int lanes_;
  int packet_lanes_;
  std::size_t packet_elems_ = 1;
  std::size_t packet_round_ = 1;
  std::uint32_t epoch_;
};

}  // namespace allfold
