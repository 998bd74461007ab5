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
/// World: how many ranks there are, where that is known as the kernel is compiled; else 0. What a lane holds of each
/// rank stays in registers.
///
/// Brief: a lane has at most one unit of packets in a call, of whole words. A kernel for nothing else is a third as
/// long, and a small call spends most of its time on fetching instructions: docs/decisions/0007-device-constants.md.
template <int World, bool Brief = false>
class CudaLane {
  static constexpr int Most = World != 0 ? World : max_window_ranks;
  static constexpr bool keeps_own = Brief && World == 2;

 public:
  /// `lanes`: of the block, a multiple of 32; its threads after them are no lanes. `more_tag`: see CudaWait.
  ALLFOLD_DEVICE CudaLane(const DeviceChannelView& view, const DeviceCall& call, int lanes, std::uint32_t last_epoch,
                          std::uint32_t more_tag = 0)
      : view_(view),
        wait_(view, call, static_cast<int>(blockIdx.x), last_epoch + 1, more_tag),
        lanes_(lanes),
        packet_lanes_(lanes),
        epoch_(last_epoch) {}

  ALLFOLD_DEVICE int rank() const { return view_.rank; }
  ALLFOLD_DEVICE int world_size() const { return World != 0 ? World : view_.layout.world_size; }
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
    using Result = typename Fold::result;
    FoldPlan<Fold, Most> plan;
    plan.sources = operands.count;
#pragma unroll
    for (int o = 0; o < Most; ++o) {
      plan.from[o] =
          o < operands.count ? static_cast<const typename Fold::source*>(sources.at[operands.rank[o]]) : nullptr;
    }
    // The mask is of all ranks, or of this one alone.
    const bool to_all = mask == all_ranks(world_size());
    plan.targets = to_all ? world_size() : 1;
#pragma unroll
    for (int r = 0; r < Most; ++r) plan.to[r] = static_cast<Result*>(targets.at[r]);
#pragma unroll
    for (int r = 1; r < Most; ++r) plan.to[0] = !to_all && r == rank() ? plan.to[r] : plan.to[0];
    if constexpr (World > 2) {  // from a peer on, and not all blocks from the same
      if (to_all) rotate(plan.to, nth_peer(rank(), World, block(), 0));
    }
    Result* own = nullptr;
    if constexpr (World == 4) {  // private memory may be the host's; more ranks were not measured
      if (to_all && targets.reach == Reach::mapped) own = static_cast<Result*>(targets.at[rank()]);
    }
    fold_block(fold, plan, n, lane(), lanes_, own);
  }

  template <class T>
  ALLFOLD_DEVICE void plan_packets(std::size_t, int parts) {
    using Unit = PacketUnit<T>;
    constexpr int room = static_cast<int>(PacketSlots::packet_room) / Unit::packets;
    constexpr int passes = room > most_threads ? room / most_threads : 1;
    packet_elems_ = Unit::elems;
    packet_lanes_ = lanes_ < room ? lanes_ : room;
    packet_round_ = static_cast<std::size_t>(packet_lanes_ * blocks() * parts * passes) * Unit::elems;
  }
  template <class T>
  ALLFOLD_DEVICE void plan_brief() {
    packet_elems_ = PacketUnit<T>::elems;
  }
  ALLFOLD_DEVICE std::size_t packet_elems() const { return packet_elems_; }
  ALLFOLD_DEVICE std::size_t packet_round() const { return packet_round_; }

  // A rank sends packets to itself too: then all operands are read alike, in the order of ranks. Of two ranks the brief
  // kernel is faster without.

  template <class T>
  ALLFOLD_DEVICE void post(const T* data, Range range) {
    for_my_units<T>(range.size(), [&](unsigned slot, unsigned begin, int n) {
      PacketUnit<T> unit;
      load(unit, data + range.begin + begin, n);
      send_to_all(Stage::inputs, slot, unit, keeps_own);
      return true;
    });
  }

  template <class T, class ShardOf>
  ALLFOLD_DEVICE void scatter(const T* data, ShardOf&& shard_of) {
    const Shards<ShardOf> shard(*this, shard_of, nth_target(0));
    for_my_units<T>(shard.longest, [&](unsigned slot, unsigned begin, int) {
      PacketUnit<T> unit[Most];
#pragma unroll
      for (int n = 0; n < Most; ++n) {
        if (begin < shard.size[n]) load(unit[n], data + shard.begin[n] + begin, unit_elems<T>(shard.size[n], begin));
      }
      const std::size_t offset = packets_offset(Stage::inputs, rank(), slot);
#pragma unroll
      for (int n = 0; n < Most; ++n) {
        if (begin < shard.size[n]) unit[n].send(packets_at(nth_target(n), offset), epoch_);
      }
      return true;
    });
  }

  template <class Fold, class T>
  ALLFOLD_DEVICE bool fold_posted(const Fold& fold, const T* in, Range range, T* out, bool answer) {
    const bool keep = keeps_own && !answer;  // of two_shot, scatter has sent all inputs
    return for_my_units<T>(range.size(), [&](unsigned slot, unsigned begin, int n) {
      PacketUnit<T> unit[Most];
      PacketUnit<T> mine;
      if (keep) load(mine, in + range.begin + begin, n);
      if (!receive_all(Stage::inputs, slot, unit, [&](int r) { return !keep || r != rank(); })) return false;
#pragma unroll
      for (int r = 0; r < Most; ++r) unit[r] = keep && r == rank() ? mine : unit[r];
      PacketUnit<T> result;
      fold_unit(fold, unit, world_size(), result);
      if (answer) {
        send_to_all(Stage::results, slot, result);
      } else {
        store(result, out + range.begin + begin, n);
      }
      return true;
    });
  }

  template <class T, class ShardOf>
  ALLFOLD_DEVICE bool collect(ShardOf&& shard_of, T* out) {
    const Shards<ShardOf> shard(*this, shard_of);
    return for_my_units<T>(shard.longest, [&](unsigned slot, unsigned begin, int) {
      PacketUnit<T> unit[Most];
      if (!receive_all(Stage::results, slot, unit, [&](int r) { return begin < shard.size[r]; })) return false;
#pragma unroll
      for (int r = 0; r < Most; ++r) {
        if (begin < shard.size[r]) store(unit[r], out + shard.begin[r] + begin, unit_elems<T>(shard.size[r], begin));
      }
      return true;
    });
  }

 protected:
  template <class T>
  ALLFOLD_DEVICE static void load(PacketUnit<T>& unit, const T* from, int n) {
    if constexpr (Brief) {
      unit.load_words(from, n);
    } else {
      unit.load(from, n);
    }
  }
  template <class T>
  ALLFOLD_DEVICE static void store(const PacketUnit<T>& unit, T* to, int n) {
    if constexpr (Brief) {
      unit.store_words(to, n);
    } else {
      unit.store(to, n);
    }
  }

  ALLFOLD_DEVICE std::uint64_t expected(int peer, Leg leg) const {
    return make_signal(leg == Leg::group ? view_.group_epochs()[peer] + 1 : epoch_, wait_.tag());
  }

  /// The shards of all ranks, from that of rank `first` on: index n is that of rank_after(first, n). A round fits 32
  /// bits.
  template <class ShardOf>
  struct Shards {
    std::size_t begin[Most];
    unsigned size[Most];
    unsigned longest = 0;

    ALLFOLD_DEVICE Shards(const CudaLane& e, ShardOf&& shard_of, int first = 0) {
#pragma unroll
      for (int n = 0; n < Most; ++n) {
        const Range range = n < e.world_size() ? shard_of(e.rank_after(first, n)) : Range{};
        begin[n] = range.begin;
        size[n] = static_cast<unsigned>(range.size());
        longest = size[n] > longest ? size[n] : longest;
      }
    }
  };

  ALLFOLD_DEVICE int rank_after(int first, int n) const {
    return first + n < world_size() ? first + n : first + n - world_size();
  }
  /// Whom a lane sends to first, second and so on; last to its own rank. Ranks that all began with rank 0 would get in
  /// each other's way there: docs/decisions/0007-device-constants.md.
  ALLFOLD_DEVICE int nth_target(int n) const { return rank_after(rank(), n + 1); }

  template <class T>
  ALLFOLD_DEVICE static int unit_elems(unsigned size, unsigned begin) {
    const int left = static_cast<int>(size - begin);
    return left < PacketUnit<T>::elems ? left : PacketUnit<T>::elems;
  }

  /// Walks over the units of `n` elements that are this lane's: `each(slot, first element, elements)`. The lane of a
  /// unit depends on its place in its range alone, in every round and on every rank.
  template <class T, class Each>
  ALLFOLD_DEVICE bool for_my_units(std::size_t n, Each&& each) {
    using Unit = PacketUnit<T>;
    if constexpr (Brief) {
      const auto first = static_cast<unsigned>((block() * lanes_ + lane()) * Unit::elems);
      const auto size = static_cast<unsigned>(n);
      return first >= size || each(static_cast<unsigned>(lane() * Unit::packets), first, unit_elems<T>(size, first));
    }
    if (lane() >= packet_lanes_) return true;
    const auto stride = static_cast<unsigned>(blocks() * packet_lanes_ * Unit::elems);  // a round fits 32 bits
    const auto end = static_cast<unsigned>(n);
    unsigned slot = static_cast<unsigned>(lane() * Unit::packets);
    unsigned begin = static_cast<unsigned>((block() * packet_lanes_ + lane()) * Unit::elems);
#pragma unroll 1
    for (; begin < end; begin += stride, slot += static_cast<unsigned>(packet_lanes_ * Unit::packets)) {
      if (!each(slot, begin, unit_elems<T>(end, begin))) return false;
    }
    return true;
  }

  /// Where packet `slot` of rank `from` lies, in any rank's part.
  ALLFOLD_DEVICE std::size_t packets_offset(Stage stage, int from, unsigned slot) const {
    const unsigned begin =
        PacketSlots::of(world_size()).begin(block(), epoch_ & 1U, stage, static_cast<unsigned>(from));
    return view_.layout.packets_offset + std::size_t{begin + slot} * sizeof(DevicePacket);
  }
  ALLFOLD_DEVICE DevicePacket* packets_at(int of, std::size_t offset) const {
    return reinterpret_cast<DevicePacket*>(view_.part[of] + offset);
  }

  template <class Unit>
  ALLFOLD_DEVICE void send_to_all(Stage stage, unsigned slot, const Unit& unit, bool but_me = false) {
    const std::size_t offset = packets_offset(stage, rank(), slot);
#pragma unroll
    for (int n = 0; n < Most; ++n) {
      if (n < world_size() - (but_me ? 1 : 0)) unit.send(packets_at(nth_target(n), offset), epoch_);
    }
  }

  /// Receives a unit from each rank for which `expects` says so: all are looked at before any is waited for.
  template <class Unit, class Expects>
  ALLFOLD_DEVICE bool receive_all(Stage stage, unsigned slot, Unit (&unit)[Most], Expects&& expects) {
    const DevicePacket* const first = packets_at(rank(), packets_offset(stage, 0, slot));
    std::uint32_t differs[Most];
#pragma unroll
    for (int r = 0; r < Most; ++r) differs[r] = r < world_size() && expects(r) ? 1 : 0;
    const auto look = [&] {
      std::uint32_t any = 0;
#pragma unroll
      for (int r = 0; r < Most; ++r) {
        if (differs[r] != 0) differs[r] = unit[r].look(first + r * PacketSlots::packet_room, epoch_);
      }
#pragma unroll
      for (int r = 0; r < Most; ++r) any |= differs[r];
      return any == 0 ? Arrival::here : Arrival::not_yet;
    };
    return wait_.until(look, [&] {
      int missing = 0;
#pragma unroll
      for (int r = 0; r < Most; ++r) missing = differs[r] != 0 ? r : missing;
      return missing;
    });
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
