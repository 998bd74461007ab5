// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <allfold/base/config.hpp>
#include <allfold/memory/call_record.hpp>
#include <allfold/memory/signal.hpp>

namespace allfold {

/// The call that a rank is in, for its peers. `signal` is stored last and with release (a group's call has the words of
/// Leg::group for that); the record is read only by who has seen there an epoch that cannot end without him.
struct alignas(cache_line_bytes) PublishedCall {
  std::uint64_t signal = 0;
  CallRecord record;
};

/// One packet of CPU ranks: as much data as moves well before the next signal. Data that fits beside a signal travels
/// in the signal's cache line. An owner of a shard answers with the result in the lines that the inputs came in: a line
/// that goes to and fro crosses between cores half as often as one that only one side writes.
struct alignas(cache_line_bytes) HostPacket {
  static constexpr std::size_t payload_bytes = 8192;
  /// A larger element does not travel in packets.
  static constexpr std::size_t largest_element = 1024;
  static constexpr std::size_t inline_bytes = cache_line_bytes - sizeof(std::uint64_t);

  struct alignas(cache_line_bytes) Head {
    unsigned char beside[inline_bytes];
    std::uint64_t signal;
  };

  Head head[stage_count];
  unsigned char payload[payload_bytes];

  /// Where `bytes` of data of a stage lie, aligned as a cache line is.
  unsigned char* data(Stage stage, std::size_t bytes) noexcept {
    return bytes <= inline_bytes ? head[static_cast<int>(stage)].beside : payload;
  }
  std::uint64_t& signal(Stage stage) noexcept { return head[static_cast<int>(stage)].signal; }
};
static_assert(HostPacket::largest_element <= HostPacket::payload_bytes);

/// One padded signal word.
struct alignas(cache_line_bytes) SignalLine {
  std::uint64_t word;
};

/// Where things lie in one rank's part of a channel's memory. The same on every rank.
struct ChannelLayout {
  int world_size = 1;
  int blocks = 1;
  std::size_t packets_offset = 0;
  int packets = 0;  ///< of one epoch parity
  std::size_t staging_offset = 0;
  std::size_t staging_bytes = 0;
  std::size_t inbox_offset = 0;
  std::size_t bytes = 0;  ///< of the whole part

  /// A chunk of two_shot_push: as much as moves well through the caches.
  static constexpr std::size_t inbox_slot_bytes = std::size_t{16} << 10;

  static ChannelLayout of(int world_size, int blocks, int packets, std::size_t staging_bytes) noexcept {
    ChannelLayout layout{
        .world_size = world_size, .blocks = blocks, .packets = packets, .staging_bytes = staging_bytes};
    const std::size_t pads = sizeof(SignalLine) * static_cast<std::size_t>(blocks * leg_count * world_size);
    layout.packets_offset = page_up(2 * sizeof(PublishedCall) + pads);
    layout.staging_offset = page_up(layout.packets_offset + sizeof(HostPacket) * static_cast<std::size_t>(2 * packets));
    layout.inbox_offset = page_up(layout.staging_offset + staging_bytes);
    layout.bytes = layout.inbox_offset + inbox_slot_bytes * static_cast<std::size_t>(blocks * layout.inbox_slots());
    return layout;
  }

  /// Slots of one block's inbox: of chunks and of results.
  int inbox_slots() const noexcept { return 2 * push_slots * world_size; }

 private:
  static constexpr std::size_t page_up(std::size_t n) noexcept { return (n + 4095) & ~std::size_t{4095}; }
};

/// One rank's view of a channel: every rank's pads, packets and staging memory. Trivially copyable.
struct ChannelView {
  ChannelLayout layout;
  int rank = 0;
  char* part[max_window_ranks] = {};  ///< [rank] where this process sees that rank's part

  /// The call of `rank` that all ranks take part in, or (group) that a subset does.
  PublishedCall& published(int of, bool group) const noexcept {
    return reinterpret_cast<PublishedCall*>(part[of])[group ? 1 : 0];
  }

  /// The word in `to`'s pad that `from` writes.
  std::uint64_t* signal(int to, int block, Leg leg, int from) const noexcept {
    auto* lines = reinterpret_cast<SignalLine*>(part[to] + 2 * sizeof(PublishedCall));
    return &lines[(block * leg_count + static_cast<int>(leg)) * layout.world_size + from].word;
  }

  /// Packet `index` in `of`'s memory. Epochs take turns between two sets: a rank that posts in epoch e + 2 has seen
  /// every peer enter e + 1, hence leave e.
  HostPacket& packet(int of, std::uint32_t epoch, std::size_t index) const noexcept {
    auto* packets = reinterpret_cast<HostPacket*>(part[of] + layout.packets_offset);
    return packets[(epoch & 1U) * static_cast<std::size_t>(layout.packets) + index];
  }

  void* staging(int of) const noexcept { return part[of] + layout.staging_offset; }

  void* inbox(int of, int block, int slot) const noexcept {
    const auto index = static_cast<std::size_t>(block * layout.inbox_slots() + slot);
    return part[of] + layout.inbox_offset + index * ChannelLayout::inbox_slot_bytes;
  }

  /// Staging memory as a buffer that begins `offset` bytes into every rank's.
  Buffer staging_buffer(std::size_t offset) const noexcept {
    Buffer buffer;
    for (int r = 0; r < layout.world_size; ++r) buffer.at[r] = static_cast<char*>(staging(r)) + offset;
    buffer.reach = Reach::mapped;
    return buffer;
  }
};

}  // namespace allfold
