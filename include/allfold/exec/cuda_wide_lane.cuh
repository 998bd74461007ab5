// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <allfold/algo/chunk.hpp>
#include <allfold/exec/cuda_lane.cuh>
#include <allfold/exec/cuda_ptx.cuh>
#include <allfold/exec/cuda_words.cuh>
#include <allfold/memory/device_channel.hpp>

namespace allfold {

/// What a lane handles at a time: N vectors of 16 bytes, which travel as N packets, each of which is one atomic access.
/// So each has a tag of two bits, which says whether it is the one that is waited for: the top bits of its last two
/// words; of a single packet also those of its first two. The lanes of a warp send 32 N - 1 vectors as 32 N packets,
/// and the last packet of the last lane carries the bits that the vectors had where the tags are.
template <class T, int N>
struct WideUnit : PackedWords<T, 4 * N> {
  static_assert(N == 1 || N == 2);
  static constexpr int vector_elems = 16 / static_cast<int>(sizeof(T));
  static constexpr int elems = N * vector_elems;
  static constexpr int warp_elems = (32 * N - 1) * vector_elems;

  struct Packets {
    DevicePacket at[N];
  };

  using PackedWords<T, 4 * N>::word;

  /// Of `n` elements, those of this lane, whose first vector lies at `at`: multiples of a vector both. Vectors of a
  /// lane lie 32 vectors apart.
  ALLFOLD_DEVICE void load(const T* from, unsigned at, unsigned n) {
#pragma unroll
    for (int v = 0; v < N; ++v) {
      std::uint32_t raw[4] = {};
      if (has_vector(v, at, n)) ptx::load(from + at + v * 32 * vector_elems, raw);
#pragma unroll
      for (int w = 0; w < 4; ++w) word[v * 4 + w] = raw[w];
    }
  }
  ALLFOLD_DEVICE void store(T* to, unsigned at, unsigned n) const {
#pragma unroll
    for (int v = 0; v < N; ++v) {
      const std::uint32_t raw[4] = {word[v * 4], word[v * 4 + 1], word[v * 4 + 2], word[v * 4 + 3]};
      if (has_vector(v, at, n)) ptx::store(to + at + v * 32 * vector_elems, raw);
    }
  }

  /// What this lane sends. All lanes of a warp call it.
  ALLFOLD_DEVICE Packets pack(std::uint32_t tag) const {
    std::uint32_t out[4 * N];
#pragma unroll
    for (int w = 0; w < 4 * N; ++w) out[w] = word[w];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t bits = __ballot_sync(whole_warp, (word[tagged(i)] & top) != 0);
      std::uint32_t& last = out[4 * N - 4 + i];
      last = is_last_lane() ? bits : last;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) out[tagged(i)] = with_top(out[tagged(i)], tag_bit(tag, i));
    Packets packets;
#pragma unroll
    for (int v = 0; v < N; ++v) packets.at[v] = {{out[v * 4], out[v * 4 + 1], out[v * 4 + 2]}, out[v * 4 + 3]};
    return packets;
  }

  ALLFOLD_DEVICE static bool have_tag(const Packets& in, std::uint32_t tag) {
    std::uint32_t differs = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) differs |= word_of(in, tagged(i)) ^ tag_bit(tag, i);
    return (differs & top) == 0;
  }

  /// The vectors of this lane, from what the lanes of a warp received. All of them call it.
  ALLFOLD_DEVICE void unpack(const Packets& in) {
#pragma unroll
    for (int w = 0; w < 4 * N; ++w) word[w] = word_of(in, w);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t bits = __shfl_sync(whole_warp, word_of(in, 4 * N - 4 + i), last_lane);
      word[tagged(i)] = with_top(word[tagged(i)], bits << (last_lane - threadIdx.x % 32));
    }
  }

 private:
  static constexpr unsigned whole_warp = ~0U;
  static constexpr unsigned last_lane = 31;
  static constexpr std::uint32_t top = std::uint32_t{1} << 31;

  ALLFOLD_DEVICE static bool is_last_lane() { return threadIdx.x % 32 == last_lane; }
  ALLFOLD_DEVICE static bool has_vector(int v, unsigned at, unsigned n) {
    return at + static_cast<unsigned>(v * 32 * vector_elems) < n && (v < N - 1 || !is_last_lane());
  }

  /// The i-th of the four words of a lane that give their top bits to the tag.
  ALLFOLD_DEVICE static constexpr int tagged(int i) {
    constexpr int each = 4 / N;
    return i / each * 4 + 4 - each + i % each;
  }
  /// The bit of the tag that the i-th of them has, as its top bit.
  ALLFOLD_DEVICE static std::uint32_t tag_bit(std::uint32_t tag, int i) { return tag << (31 - i % 2); }
  ALLFOLD_DEVICE static std::uint32_t with_top(std::uint32_t x, std::uint32_t bit) { return (x & ~top) | (bit & top); }

  ALLFOLD_DEVICE static std::uint32_t word_of(const Packets& in, int w) {
    return w % 4 == 3 ? in.at[w / 4].flag : in.at[w / 4].data[w % 4];
  }
};

/// The executor of GPU ranks that sends wide packets, N of each lane at a time. All operands are vectors: aligned, and
/// whole. What a rank has itself it does not send to itself, for such calls are bound by what links and memory move.
/// Why no round takes an old packet for its own: WideRounds.
template <int World, int N>
class CudaWideLane : public CudaLane<World> {
  static_assert(PacketSlots::has_wide(World));
  using Base = CudaLane<World>;
  static constexpr int Most = World;

 public:
  using Base::block;
  using Base::blocks;
  using Base::lane;
  using Base::lanes;
  using Base::rank;

  ALLFOLD_DEVICE CudaWideLane(const DeviceChannelView& view, const DeviceCall& call, int lanes, const BlockState& last)
      : Base(view, call, lanes, last.epoch), rounds_(last.wide) {}

  ALLFOLD_DEVICE void begin_round() {
    Base::begin_round();
    ++rounds_.count;
  }

  template <class T>
  ALLFOLD_DEVICE void plan_wide() {
    this->packet_elems_ = WideUnit<T, N>::warp_elems;
  }

  /// Left to fold_posted, which sends a pass ahead of what it receives: so neither waits for the other.
  template <class T>
  ALLFOLD_DEVICE void post(const T*, Range) {}

  template <class T, class ShardOf>
  ALLFOLD_DEVICE void scatter(const T* data, ShardOf&& shard_of) {
    const typename Base::template Shards<ShardOf> shard(*this, shard_of, this->nth_target(0));
#pragma unroll 1
    for (Walk<T> walk(*this); walk.begin < shard.longest; walk.next()) {
      WideUnit<T, N> to[Most - 1];
#pragma unroll
      for (int n = 0; n < Most - 1; ++n) to[n].load(data + shard.begin[n], walk.vector, shard.size[n]);
      const std::size_t offset = offset_of(Stage::inputs, static_cast<unsigned>(rank()), walk.slot);
#pragma unroll
      for (int n = 0; n < Most - 1; ++n) {
        const auto packets = to[n].pack(tag());
        if (walk.begin < shard.size[n]) send(this->packets_at(this->nth_target(n), offset), packets);
      }
    }
  }

  template <class Fold, class T>
  ALLFOLD_DEVICE bool fold_posted(const Fold& fold, const T* in, Range range, T* out, bool answer) {
    const auto size = static_cast<unsigned>(range.size());
    const T* const from = in + range.begin;
    Walk<T> walk(*this);
    Walk<T> ahead(*this);
    bool posted = answer;  // of two_shot, scatter has sent the inputs
#pragma unroll 1
    while (walk.begin < size) {
      if (!answer) {
        WideUnit<T, N> next;
        next.load(from, ahead.vector, size);
        send_to_peers(Stage::inputs, ahead, next, size);
        ahead.next();
      }
      if (!posted) {
        posted = true;
        continue;
      }
      WideUnit<T, N> mine;
      mine.load(from, walk.vector, size);
      WideUnit<T, N> of[Most];
      if (!receive_all(Stage::inputs, walk, of, [&](int) { return size; })) return false;
#pragma unroll
      for (int r = 0; r < Most; ++r) of[r] = r == rank() ? mine : of[r];
      WideUnit<T, N> result;
      fold_unit(fold, of, World, result);
      if (answer) send_to_peers(Stage::results, walk, result, size);
      result.store(out + range.begin, walk.vector, size);
      walk.next();
    }
    clear_from(Stage::inputs, walk.slot);
    if (!answer) clear_from(Stage::results, Walk<T>(*this).slot);
    return true;
  }

  template <class T, class ShardOf>
  ALLFOLD_DEVICE bool collect(ShardOf&& shard_of, T* out) {
    const typename Base::template Shards<ShardOf> shard(*this, shard_of);
    Walk<T> walk(*this);
#pragma unroll 1
    for (; walk.begin < shard.longest; walk.next()) {
      WideUnit<T, N> of[Most];
      if (!receive_all(Stage::results, walk, of, [&](int r) { return shard.size[r]; })) return false;
#pragma unroll
      for (int r = 0; r < Most; ++r) {
        if (r != rank()) of[r].store(out + shard.begin[r], walk.vector, shard.size[r]);
      }
    }
    clear_from(Stage::results, walk.slot);
    return true;
  }

  /// What the next call goes on from: of the block's first lane, which has the longest walks.
  ALLFOLD_DEVICE void leave(BlockState& state) const {
    state.epoch = this->epoch();
    state.wide = rounds_;
  }

 private:
  /// Where a lane is, as its warp walks over a range in passes of all blocks.
  template <class T>
  struct Walk {
    unsigned slot;    ///< of the lane's first packet
    unsigned begin;   ///< the first element of the warp
    unsigned vector;  ///< the first element of the lane
    unsigned slots;   ///< of one pass of the block
    unsigned elems;   ///< of one pass of all blocks

    ALLFOLD_DEVICE explicit Walk(const CudaWideLane& e) {
      constexpr unsigned each = WideUnit<T, N>::warp_elems;
      const auto lane = static_cast<unsigned>(e.lane());
      const auto lanes = static_cast<unsigned>(e.lanes());
      slot = lane / 32 * 32 * N + lane % 32;
      begin = (static_cast<unsigned>(e.block()) * lanes + lane) / 32 * each;
      vector = begin + lane % 32 * WideUnit<T, N>::vector_elems;
      slots = lanes * N;
      elems = static_cast<unsigned>(e.blocks()) * lanes / 32 * each;
    }

    ALLFOLD_DEVICE void next() {
      slot += slots;
      begin += elems;
      vector += elems;
    }
  };

  ALLFOLD_DEVICE std::uint32_t tag() const { return rounds_.tag(); }

  ALLFOLD_DEVICE static constexpr PacketSlots slots() { return PacketSlots::wide(World); }

  /// Where packet `slot` of rank `from` lies, in any rank's part.
  ALLFOLD_DEVICE std::size_t offset_of(Stage stage, unsigned from, unsigned slot) const {
    const unsigned source = from % slots().sources;  // of two ranks only the other is one
    const unsigned begin = slots().begin(block(), rounds_.set(), stage, source);
    return this->view_.layout.wide_offset + std::size_t{begin + slot} * sizeof(DevicePacket);
  }

  template <class Packets>
  ALLFOLD_DEVICE static void send(DevicePacket* to, const Packets& packets) {
#pragma unroll
    for (int v = 0; v < N; ++v) ptx::store_packet(to + v * 32, packets.at[v]);
  }
  ALLFOLD_DEVICE static void clear(DevicePacket* slot) {
#pragma unroll
    for (int v = 0; v < N; ++v) ptx::store_packet(slot + v * 32, {});
  }

  template <class T>
  ALLFOLD_DEVICE void send_to_peers(Stage stage, const Walk<T>& walk, const WideUnit<T, N>& mine, unsigned size) {
    const auto packets = mine.pack(tag());
    const std::size_t offset = offset_of(stage, static_cast<unsigned>(rank()), walk.slot);
#pragma unroll
    for (int n = 0; n < Most - 1; ++n) {
      if (walk.begin < size) send(this->packets_at(this->nth_target(n), offset), packets);
    }
  }

  /// Receives what each peer r sent of its `size_of(r)` elements: all are looked at before any is waited for. A slot
  /// that a peer does not fill is cleared.
  template <class T, class SizeOf>
  ALLFOLD_DEVICE bool receive_all(Stage stage, const Walk<T>& walk, WideUnit<T, N> (&of)[Most], SizeOf&& size_of) {
    const auto at = [&](int r) {
      return this->packets_at(rank(), offset_of(stage, static_cast<unsigned>(r), walk.slot));
    };
    typename WideUnit<T, N>::Packets packets[Most] = {};
    bool missing[Most];
#pragma unroll
    for (int r = 0; r < Most; ++r) {
      missing[r] = r != rank() && walk.begin < size_of(r);
      if (r != rank() && walk.begin >= size_of(r)) clear(at(r));
    }
    const auto look = [&] {
#pragma unroll
      for (int r = 0; r < Most; ++r) {
#pragma unroll
        for (int v = 0; v < N; ++v) {
          if (missing[r]) packets[r].at[v] = ptx::load_packet(at(r) + v * 32);
        }
      }
      bool any = false;
#pragma unroll
      for (int r = 0; r < Most; ++r) {
        missing[r] = missing[r] && !WideUnit<T, N>::have_tag(packets[r], tag());
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
    for (int r = 0; r < Most; ++r) of[r].unpack(packets[r]);
    return true;
  }

  /// The round fills the warp's slots before `slot`: clears those after it that were filled in the set's last use.
  ALLFOLD_DEVICE void clear_from(Stage stage, unsigned slot) {
    const unsigned end = rounds_.fill(stage, slot);
#pragma unroll 1
    for (; slot < end; slot += static_cast<unsigned>(lanes() * N)) {
#pragma unroll 1
      for (unsigned r = 0; r < slots().sources; ++r) {
        clear(this->packets_at(rank(), offset_of(stage, r, slot)));
      }
    }
  }

  WideRounds rounds_;
};

}  // namespace allfold
