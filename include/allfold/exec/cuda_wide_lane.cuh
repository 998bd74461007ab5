// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <allfold/algo/chunk.hpp>
#include <allfold/exec/cuda_fold.cuh>
#include <allfold/exec/cuda_lane.cuh>
#include <allfold/exec/cuda_ptx.cuh>
#include <allfold/memory/device_channel.hpp>

namespace allfold {

/// Sixteen lanes send fifteen vectors as sixteen packets of 16 bytes, each of which is one atomic access: fifteen bytes of
/// data, and a tag that says whether they are those that are waited for. Lanes 0 to 14 send a vector each, but for its
/// last byte; lane 15 sends the last bytes.
template <class T>
struct WidePacket : Vector<T> {
  static constexpr int group = 16;
  static constexpr int elems = Vector<T>::elems;
  static constexpr int group_elems = (group - 1) * elems;

  using Vector<T>::word;

  /// What this lane sends. All lanes of a warp call it.
  ALLFOLD_DEVICE DevicePacket pack(std::uint32_t tag) const {
    const unsigned lane = threadIdx.x % group;
    const bool carrier = lane == group - 1;
    std::uint32_t last = carrier ? 0 : word[3] >> 24;
    last |= __shfl_down_sync(whole_warp, last, 1, group) << 8;
    last |= __shfl_down_sync(whole_warp, last, 2, group) << 16;
    std::uint32_t out[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const std::uint32_t four = __shfl_sync(whole_warp, last, w * 4, group);
      out[w] = carrier ? four : word[w];
    }
    return {{out[0], out[1], out[2]}, (out[3] & 0xffffffU) | tag << 24};
  }

  /// The tag of a packet that was received.
  ALLFOLD_DEVICE static std::uint32_t tag_of(const DevicePacket& packet) { return packet.flag >> 24; }

  /// The vector of this lane, from what the lanes of a warp received. All of them call it.
  ALLFOLD_DEVICE void unpack(const DevicePacket& packet) {
    const unsigned lane = threadIdx.x % group;
    const std::uint32_t in[4] = {packet.data[0], packet.data[1], packet.data[2], packet.flag};
    std::uint32_t last = 0;
#pragma unroll
    for (unsigned w = 0; w < 4; ++w) {
      const std::uint32_t four = __shfl_sync(whole_warp, in[w], group - 1, group);
      last = lane / 4 == w ? four : last;
      word[w] = in[w];
    }
    word[3] = (in[3] & 0xffffffU) | (last >> lane % 4 * 8) << 24;
  }

 private:
  static constexpr unsigned whole_warp = ~0U;
};

/// The executor of GPU ranks for calls of one round, of packets that carry fifteen bytes of sixteen. All operands are
/// vectors: aligned, and whole. What a rank has itself it does not send to itself, for such calls are bound by what links
/// and memory move.
///
/// A tag has eight bits and comes around again, while a slot that only long calls use keeps an old one. So each call
/// sweeps some of the slots, and no tag is met again: see DeviceLayout::wide_sweeps.
template <int World>
class CudaWideLane : public CudaLane<World> {
  static_assert(DeviceLayout::has_wide_packets(World));
  using Base = CudaLane<World>;
  static constexpr int Most = World;

 public:
  using Base::block;
  using Base::blocks;
  using Base::lane;
  using Base::lanes;
  using Base::rank;
  using Base::world_size;

  /// `uses`: how many calls with wide packets the block has had.
  ALLFOLD_DEVICE CudaWideLane(const DeviceChannelView& view, const DeviceCall& call, int lanes,
                              std::uint32_t last_epoch, std::uint32_t uses)
      : Base(view, call, lanes, last_epoch), uses_(uses), tag_(uses / 2 % 255 + 1) {}

  template <class T>
  ALLFOLD_DEVICE void plan_wide() {
    packet_elems_ = WidePacket<T>::group_elems;
  }
  ALLFOLD_DEVICE std::size_t packet_elems() const { return packet_elems_; }

  /// Left to fold_posted, which sends a pass ahead of what it receives: so neither waits for the other.
  template <class T>
  ALLFOLD_DEVICE void post(const T*, Range) {}

  template <class T, class ShardOf>
  ALLFOLD_DEVICE void scatter(const T* data, ShardOf&& shard_of) {
    const typename Base::template Shards<ShardOf> shard(*this, shard_of, this->nth_target(0));
#pragma unroll 1
    for (Groups<T> g(*this); g.warp < shard.longest; g.next()) {
      WidePacket<T> to[Most - 1];
#pragma unroll
      for (int n = 0; n < Most - 1; ++n) {
        if (g.has_vector(shard.size[n])) ptx::load(data + shard.begin[n] + g.vector, to[n].word);
      }
      const std::size_t offset = offset_of(Stage::inputs, rank(), g.slot);
#pragma unroll
      for (int n = 0; n < Most - 1; ++n) {
        const DevicePacket packet = to[n].pack(tag_);
        if (g.begin < shard.size[n]) ptx::store_packet(this->packets_at(this->nth_target(n), offset), packet);
      }
    }
  }

  template <class Fold, class T>
  ALLFOLD_DEVICE bool fold_posted(const Fold& fold, const T* in, Range range, T* out, bool answer) {
    const auto size = static_cast<unsigned>(range.size());
    const T* const from = in + range.begin;
    Groups<T> g(*this);
    Groups<T> ahead(*this);
    bool posted = answer;  // of two_shot, scatter has sent the inputs
#pragma unroll 1
    while (g.warp < size) {
      if (!answer) {
        WidePacket<T> next;
        if (ahead.has_vector(size)) ptx::load(from + ahead.vector, next.word);
        send_to_peers(Stage::inputs, ahead, next, size);
        ahead.next();
      }
      if (!posted) {
        posted = true;
        continue;
      }
      WidePacket<T> of[Most];
      if (!receive_all(Stage::inputs, g, of, [&](int) { return size; })) return false;
      WidePacket<T> mine;
      if (g.has_vector(size)) ptx::load(from + g.vector, mine.word);
#pragma unroll
      for (int r = 0; r < Most; ++r) of[r] = r == rank() ? mine : of[r];
      WidePacket<T> result;
      result.clear();
#pragma unroll
      for (int e = 0; e < WidePacket<T>::elems; ++e) {
        auto sum = fold.first(of[0].at(e));
#pragma unroll
        for (int r = 1; r < Most; ++r) {
          sum = fold.next(sum, of[r].at(e));
        }
        result.set(e, fold.last(sum));
      }
      if (answer) send_to_peers(Stage::results, g, result, size);
      if (g.has_vector(size)) ptx::store(out + range.begin + g.vector, result.word);
      g.next();
    }
    return true;
  }

  template <class T, class ShardOf>
  ALLFOLD_DEVICE bool collect(ShardOf&& shard_of, T* out) {
    const typename Base::template Shards<ShardOf> shard(*this, shard_of);
#pragma unroll 1
    for (Groups<T> g(*this); g.warp < shard.longest; g.next()) {
      WidePacket<T> of[Most];
      if (!receive_all(Stage::results, g, of, [&](int r) { return shard.size[r]; })) return false;
#pragma unroll
      for (int r = 0; r < Most; ++r) {
        if (r != rank() && g.has_vector(shard.size[r])) ptx::store(out + shard.begin[r] + g.vector, of[r].word);
      }
    }
    return true;
  }

  /// After a sync of all lanes: what comes now comes to the other set.
  ALLFOLD_DEVICE void sweep() const {
    constexpr unsigned each = DeviceLayout::wide_room * stage_count / DeviceLayout::wide_sweeps;
    DevicePacket* const set = this->packets_at(rank(), this->view_.wide_offset(block(), uses_ & 1U));
    DevicePacket* const swept = set + uses_ / 2 % DeviceLayout::wide_sweeps * each;
    for (auto i = static_cast<unsigned>(lane()); i < each; i += static_cast<unsigned>(lanes())) {
      ptx::store_packet(swept + i, {});
    }
  }

 private:
  /// Where a lane is, as it walks over a range in passes of all blocks. The lanes of a warp stay together, also where its
  /// second group lies behind the end.
  template <class T>
  struct Groups {
    static constexpr unsigned group = WidePacket<T>::group;

    unsigned slot;
    unsigned warp;    ///< the first element of the warp's first group
    unsigned begin;   ///< of this lane's group
    unsigned vector;  ///< the first element of this lane's vector; the last lane of a group has none
    unsigned slots;
    unsigned elems;  ///< of one pass

    ALLFOLD_DEVICE explicit Groups(const CudaWideLane& e) {
      constexpr unsigned each = WidePacket<T>::group_elems;
      slots = static_cast<unsigned>(e.lanes());
      slot = static_cast<unsigned>(e.lane());
      const unsigned first = (static_cast<unsigned>(e.block()) * slots + slot) / group;
      warp = first / 2 * 2 * each;
      begin = first * each;
      vector = begin + slot % group * WidePacket<T>::elems;
      elems = static_cast<unsigned>(e.blocks()) * slots / group * each;
    }

    ALLFOLD_DEVICE void next() {
      slot += slots;
      warp += elems;
      begin += elems;
      vector += elems;
    }

    ALLFOLD_DEVICE bool has_vector(unsigned size) const { return vector < size && slot % group != group - 1; }
  };

  /// Where packet `slot` of rank `from` lies, in any rank's part.
  ALLFOLD_DEVICE std::size_t offset_of(Stage stage, int from, unsigned slot) const {
    const unsigned room = DeviceLayout::wide_packets(world_size());
    const unsigned index = static_cast<unsigned>(stage) * DeviceLayout::wide_room + static_cast<unsigned>(from) * room;
    return this->view_.wide_offset(block(), uses_ & 1U) + (index + slot) * sizeof(DevicePacket);
  }

  template <class T>
  ALLFOLD_DEVICE void send_to_peers(Stage stage, const Groups<T>& g, const WidePacket<T>& mine, unsigned size) {
    const DevicePacket packet = mine.pack(tag_);
    const std::size_t offset = offset_of(stage, rank(), g.slot);
#pragma unroll
    for (int n = 0; n < Most - 1; ++n) {
      if (g.begin < size) ptx::store_packet(this->packets_at(this->nth_target(n), offset), packet);
    }
  }

  /// Receives what each peer r sent of its `size_of(r)` elements: all are looked at before any is waited for.
  template <class T, class SizeOf>
  ALLFOLD_DEVICE bool receive_all(Stage stage, const Groups<T>& g, WidePacket<T> (&of)[Most], SizeOf&& size_of) {
    const DevicePacket* const first = this->packets_at(rank(), offset_of(stage, 0, g.slot));
    const unsigned room = DeviceLayout::wide_packets(world_size());
    DevicePacket packet[Most] = {};
    bool missing[Most];
#pragma unroll
    for (int r = 0; r < Most; ++r) missing[r] = r != rank() && g.begin < size_of(r);
    const auto look = [&] {
#pragma unroll
      for (int r = 0; r < Most; ++r) {
        if (missing[r]) packet[r] = ptx::load_packet(first + static_cast<unsigned>(r) * room);
      }
      bool any = false;
#pragma unroll
      for (int r = 0; r < Most; ++r) {
        missing[r] = missing[r] && WidePacket<T>::tag_of(packet[r]) != tag_;
        any = any || missing[r];
      }
      return any ? Arrival::not_yet : Arrival::here;
    };
    const bool ok = this->wait_.until(look, [&] {
      int last = 0;
#pragma unroll
      for (int r = 0; r < Most; ++r) last = missing[r] ? r : last;
      return last;
    });
    if (!__all_sync(~0U, ok)) return false;
#pragma unroll
    for (int r = 0; r < Most; ++r) of[r].unpack(packet[r]);
    return true;
  }

  std::uint32_t uses_;
  std::uint32_t tag_;
  std::size_t packet_elems_ = 1;
};

}  // namespace allfold
