// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/executor.hpp>
#include <allfold/exec/host_fold.hpp>
#include <allfold/exec/host_team.hpp>
#include <allfold/exec/host_wait.hpp>
#include <allfold/memory/channel.hpp>

namespace allfold {

/// The executor of CPU ranks: one thread is one lane. See algo/executor.hpp for what each member promises.
///
/// Tuned constants: docs/decisions/0006-host-constants.md.
class HostLane {
 public:
  /// In a call of at least so many bytes, results go past the caches: nobody reads them before they are evicted.
  static constexpr std::size_t stream_from_bytes = std::size_t{32} << 20;

  struct Place {
    int block = 0;
    int lane = 0;
  };

  /// `group_epochs`: [peer], for barriers of a subset. `bytes`: of the call's vector.
  HostLane(const ChannelView& view, HostWait& wait, HostTeam& team, Place place, const std::uint32_t* group_epochs,
           std::size_t bytes) noexcept
      : view_(view),
        wait_(wait),
        team_(team),
        place_(place),
        group_epochs_(group_epochs),
        past_caches_(bytes >= stream_from_bytes),
        epoch_(wait.first_epoch() - 1) {}

  int rank() const noexcept { return view_.rank; }
  int world_size() const noexcept { return view_.layout.world_size; }
  int block() const noexcept { return place_.block; }
  int blocks() const noexcept { return team_.blocks(); }
  int lane() const noexcept { return place_.lane; }
  int lanes() const noexcept { return team_.lanes(); }

  void begin_round() noexcept { ++epoch_; }
  /// The epoch of the current round; after the last round, what the channel goes on from.
  std::uint32_t epoch() const noexcept { return epoch_; }

  bool sync(bool ok) noexcept { return team_.barrier(place_.block).meet(ok); }

  void signal(int peer, Leg leg) noexcept {
    store_release(view_.signal(peer, place_.block, leg, rank()), expected(peer, leg));
  }
  bool wait(int peer, Leg leg, int behind) noexcept {
    const std::uint64_t word = expected(peer, leg) - make_signal(static_cast<std::uint32_t>(behind), 0);
    return wait_.until(view_.signal(rank(), place_.block, leg, peer), word, peer);
  }

  Buffer staging(std::size_t offset) const noexcept { return view_.staging_buffer(offset); }
  std::size_t staging_bytes() const noexcept { return view_.layout.staging_bytes; }
  void* inbox(int of, int slot) const noexcept { return view_.inbox(of, place_.block, slot); }
  std::size_t inbox_slot_bytes() const noexcept { return ChannelLayout::inbox_slot_bytes; }

  void copy(void* to, const void* from, std::size_t bytes) const noexcept {
    const Range part = part_of({0, bytes}, lanes(), lane(), cache_line_bytes);
    if (part.size() == 0) return;
    copy_part(static_cast<char*>(to) + part.begin, static_cast<const char*>(from) + part.begin, part.size());
  }

  template <class Fold>
  void fold(const Fold& fold, const Buffer& sources, const Operands& operands, const Buffer& targets, RankMask mask,
            std::size_t n) const noexcept {
    using Source = typename Fold::source;
    using Result = typename Fold::result;
    const Range part = part_of({0, n}, lanes(), lane(), line_grain<Source>());
    if (part.size() == 0) return;

    FoldTargets<Result> to;
    for (int r = 0; r < world_size(); ++r) {
      if (has_rank(mask, r)) to.add(static_cast<Result*>(targets.at[r]) + part.begin, streams_to(r, targets.at[r]));
    }
    const Source* from[max_window_ranks] = {};
    for (int o = 0; o < operands.count; ++o) {
      from[o] = static_cast<const Source*>(sources.at[operands.rank[o]]) + part.begin;
    }
    fold_into(fold, from, operands.count, to, part.size());
  }

  template <class T>
  void plan_packets(std::size_t count, int parts) noexcept {
    constexpr std::size_t most = sizeof(T) > HostPacket::largest_element ? 1 : HostPacket::payload_bytes / sizeof(T);
    const std::size_t part = parts == 1 ? count : part_of({0, count}, parts, 0, line_grain<T>()).size();
    packet_elems_ = part < most ? part : most;
    answered_ = parts > 1;
  }
  std::size_t packet_elems() const noexcept { return packet_elems_; }
  std::size_t packet_round() const noexcept { return static_cast<std::size_t>(view_.layout.packets) * packet_elems_; }

  /// Whoever reads them, packets of inputs are written once.
  template <class T>
  void post(const T* data, Range range) noexcept {
    for_my_packets(range, [&](std::size_t index, Range part) {
      post_packet(packet_of(rank(), index), Stage::inputs, data + part.begin, part.size() * sizeof(T));
      return true;
    });
  }

  template <class T, class ShardOf>
  void scatter(const T* data, ShardOf&& shard_of) noexcept {
    for (int n = 1; n < world_size(); ++n) post(data, shard_of(peer_after(n)));
  }

  template <class Fold, class T>
  bool fold_posted(const Fold& fold, const T* in, Range range, T* out, bool answer) noexcept {
    return for_my_packets(range, [&](std::size_t index, Range part) {
      const std::size_t bytes = part.size() * sizeof(T);
      const T* from[max_window_ranks] = {};
      for (int r = 0; r < world_size(); ++r) {
        if (r == rank()) {
          from[r] = in + part.begin;
        } else if (const unsigned char* data = await_packet(packet_of(r, index), Stage::inputs, r, bytes)) {
          from[r] = reinterpret_cast<const T*>(data);
        } else {
          return false;
        }
      }
      FoldTargets<T> to;
      to.add(out + part.begin, streams_to(rank(), out));
      for (int n = 1; answer && n < world_size(); ++n) {
        to.add(reinterpret_cast<T*>(packet_of(peer_after(n), index).data(Stage::results, bytes)), false);
      }
      fold_into(fold, from, world_size(), to, part.size());
      for (int n = 1; answer && n < world_size(); ++n) {
        signal(packet_of(peer_after(n), index), Stage::results);
      }
      return true;
    });
  }

  template <class T, class ShardOf>
  bool collect(ShardOf&& shard_of, T* out) noexcept {
    bool ok = true;
    for (int n = 1; n < world_size() && ok; ++n) {
      const int peer = peer_after(n);
      ok = for_my_packets(shard_of(peer), [&](std::size_t index, Range part) {
        const std::size_t bytes = part.size() * sizeof(T);
        const unsigned char* data = await_packet(packet_of(rank(), index), Stage::results, peer, bytes);
        if (data != nullptr) copy_part(out + part.begin, data, bytes);
        return data != nullptr;
      });
    }
    return ok;
  }

 private:
  int peer_after(int n) const noexcept { return rank() + n < world_size() ? rank() + n : rank() + n - world_size(); }

  std::uint64_t expected(int peer, Leg leg) const noexcept {
    return make_signal(leg == Leg::group ? group_epochs_[peer] : epoch_, wait_.tag());
  }

  void copy_part(void* to, const void* from, std::size_t bytes) const noexcept {
    if (streams_to(rank(), to)) {
      stream_copy(to, from, bytes);
    } else {
      std::memcpy(to, from, bytes);
    }
  }

  /// Whether what is written to `to`, in memory of `of`, goes past the caches. Staging memory and inboxes, which lie
  /// behind it, never do: they are read next.
  bool streams_to(int of, const void* to) const noexcept {
    if (!past_caches_) return false;
    const std::size_t offset =
        reinterpret_cast<std::uintptr_t>(to) - reinterpret_cast<std::uintptr_t>(view_.staging(of));
    return offset >= view_.layout.bytes - view_.layout.staging_offset;
  }

  /// Walks over the packets of a range that are this lane's: `each(index, elements)`. The lane of a packet depends on
  /// its index alone, in every round and on every rank.
  template <class Each>
  bool for_my_packets(Range range, Each&& each) noexcept {
    const std::size_t elems = packet_elems_;
    if (range.size() == 0) return true;
    const std::size_t stride = static_cast<std::size_t>(blocks() * lanes());
    const std::size_t mine = static_cast<std::size_t>(place_.block * lanes() + place_.lane);
    std::size_t index = range.begin == 0 ? 0 : range.begin / elems;  // a range begins at a packet
    if (stride != 1) index += (mine + stride - index % stride) % stride;
    for (; index * elems < range.end; index += stride) {
      const std::size_t begin = index * elems;
      const std::size_t end = range.end - begin < elems ? range.end : begin + elems;
      if (!each(index, Range{begin, end})) return false;
    }
    return true;
  }

  /// The packet that `poster` posts. Where two ranks only post to one another, each posts in turn into its own memory
  /// and into its peer's: into the lines that it read last, which its core still holds.
  HostPacket& packet_of(int poster, std::size_t index) const noexcept {
    const bool in_turn = !answered_ && world_size() == 2;
    return view_.packet(in_turn ? poster ^ static_cast<int>(epoch_ >> 1 & 1U) : poster, epoch_, index);
  }

  void post_packet(HostPacket& packet, Stage stage, const void* data, std::size_t bytes) noexcept {
    if (bytes != 0) std::memcpy(packet.data(stage, bytes), data, bytes);
    signal(packet, stage);
  }
  void signal(HostPacket& packet, Stage stage) noexcept {
    store_release(&packet.signal(stage), make_signal(epoch_, wait_.tag()));
  }

  /// Waits for what `peer` has to write there. Null if the collective failed.
  const unsigned char* await_packet(HostPacket& packet, Stage stage, int peer, std::size_t bytes) noexcept {
    // Nobody posts into it again before it was read; one that only long calls use may be a whole turn of epochs old.
    if (!wait_.until(&packet.signal(stage), make_signal(epoch_, wait_.tag()), peer, 0)) return nullptr;
    const unsigned char* const data = packet.data(stage, bytes);
    // Lines that several ranks read come faster when they are asked for all at once.
    const bool shared = !answered_ && world_size() > 2;
    for (std::size_t at = 0; shared && at < bytes; at += cache_line_bytes) __builtin_prefetch(data + at);
    return data;
  }

  const ChannelView& view_;
  HostWait& wait_;
  HostTeam& team_;
  Place place_;
  const std::uint32_t* group_epochs_;
  bool past_caches_;
  std::uint32_t epoch_;
  std::size_t packet_elems_ = 1;
  bool answered_ = false;
};
static_assert(executor<HostLane>);

}  // namespace allfold
