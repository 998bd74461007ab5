// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <allfold/base/config.hpp>
#include <allfold/memory/call_record.hpp>
#include <allfold/memory/channel.hpp>
#include <allfold/memory/signal.hpp>
#include <allfold/memory/window.hpp>

namespace allfold {

/// No block has more threads, so that every SM holds a block of any kernel of the library, with registers enough.
inline constexpr int most_threads = 512;

/// What one block remembers from call to call. It lives on the GPU, so that a replayed graph goes on from where the
/// last call ended, eager or captured; each block has its own, so that none waits for its siblings.
struct alignas(32) BlockState {
  std::uint32_t epoch;        ///< of its last round
  std::uint32_t calls;        ///< of the channel; block 0 counts, for it takes part in every call
  std::uint32_t wide_rounds;  ///< rounds with wide packets
  std::uint64_t wide_filled;  ///< [set][stage], of 16 bits: no slot of a source after so many carries a tag
};

/// One packet of GPU ranks: data and its flag in what one store writes at once, and one load reads at once.
struct alignas(16) DevicePacket {
  static constexpr std::size_t payload_bytes = 12;
  static constexpr std::size_t largest_element = 96;

  std::uint32_t data[3];
  std::uint32_t flag;  ///< the epoch it belongs to; of a wide packet, data and tag
};

/// Where things lie in one rank's part of a channel's memory on the GPU. The same on every rank.
struct DeviceLayout {
  int world_size = 1;
  int blocks = 1;
  std::size_t groups_offset = 0;
  std::size_t pads_offset = 0;
  std::size_t packets_offset = 0;
  std::size_t wide_offset = 0;
  std::size_t staging_offset = 0;
  std::size_t staging_bytes = 0;
  std::size_t inbox_offset = 0;
  std::size_t inbox_slot_bytes = 0;
  std::size_t bytes = 0;  ///< of the whole part

  /// Packets of one block, parity, stage and source.
  static constexpr int packets = 1024;
  /// From one block's packets to the next's. Those of two ranks lie somewhat further apart than they need to, for then
  /// what blocks receive at once spreads better over the memory. Source: docs/decisions/0007-device-constants.md.
  ALLFOLD_HD static constexpr unsigned block_packets(int world_size) noexcept {
    constexpr unsigned spread = 32;
    return static_cast<unsigned>(2 * stage_count * world_size * packets) + (world_size == 2 ? spread : 0);
  }
  /// The worlds that have wide packets: those that have a kernel of their own, and where they are known to pay. Source:
  /// docs/decisions/0007-device-constants.md.
  ALLFOLD_HD static constexpr bool has_wide_packets(int world_size) noexcept {
    return world_size == 2 || world_size == 4;
  }
  /// Wide packets of one block, set and stage: of all sources, and of each. Of two ranks but one is a source: nine passes
  /// of fifteen warps with two packets of each lane, four ranks have two. With 132 blocks these are 17 and 15 MiB, enough
  /// for what TunedSelector sends in packets. Blocks lie 544 KiB apart; with 480 they would receive more slowly.
  /// Source: docs/decisions/0007-device-constants.md.
  static constexpr unsigned wide_room = 4 * 2 * 17 * 64;
  static_assert(wide_room < 1U << 16 && 2 * stage_count * 16 == 64);  // BlockState::wide_filled
  ALLFOLD_HD static constexpr unsigned wide_sources(int world_size) noexcept {
    return world_size == 2 ? 1 : static_cast<unsigned>(world_size);
  }
  ALLFOLD_HD static constexpr unsigned wide_packets(int world_size) noexcept {
    return wide_room / wide_sources(world_size);
  }

  static DeviceLayout of(int world_size, int blocks, std::size_t staging_bytes, std::size_t inbox_slot_bytes) noexcept {
    DeviceLayout layout{.world_size = world_size,
                        .blocks = blocks,
                        .staging_bytes = staging_bytes,
                        .inbox_slot_bytes = inbox_slot_bytes};
    const auto n = static_cast<std::size_t>(blocks);
    const auto ranks = static_cast<std::size_t>(world_size);
    layout.groups_offset = sizeof(BlockState) * n;
    layout.pads_offset = line_up(layout.groups_offset + sizeof(std::uint32_t) * max_window_ranks);
    layout.packets_offset = line_up(layout.pads_offset + sizeof(std::uint64_t) * n * leg_count * ranks);
    layout.wide_offset =
        line_up(layout.packets_offset + sizeof(DevicePacket) * n * std::size_t{block_packets(world_size)});
    layout.staging_offset = line_up(layout.wide_offset + sizeof(DevicePacket) * n * 2 * stage_count *
                                                             std::size_t{has_wide_packets(world_size) ? wide_room : 0});
    layout.inbox_offset = line_up(layout.staging_offset + staging_bytes);
    layout.bytes = line_up(layout.inbox_offset + inbox_slot_bytes * n * 2 * push_slots * ranks);
    return layout;
  }

 private:
  static constexpr std::size_t line_up(std::size_t n) noexcept { return (n + 511) & ~std::size_t{511}; }
};

/// One rank's view of a channel: every rank's pads, packets, staging memory and inboxes. Trivially copyable: it is
/// passed to kernels by value.
struct DeviceChannelView {
  DeviceLayout layout;
  int rank = 0;
  char* part[max_window_ranks] = {};    ///< [rank] where this rank's GPU sees that rank's part
  std::uint64_t* abort = nullptr;       ///< 0, or the packed Failure that ended the communicator; on rank 0's GPU
  std::uint64_t* host_abort = nullptr;  ///< the same in memory of the host, for the host
  PublishedCall* report = nullptr;      ///< in memory of the host: the call in which this rank met the failure

  ALLFOLD_HD BlockState* state(int block) const noexcept { return reinterpret_cast<BlockState*>(part[rank]) + block; }

  /// [peer] how many barriers of groups this rank has had with that peer.
  ALLFOLD_HD std::uint32_t* group_epochs() const noexcept {
    return reinterpret_cast<std::uint32_t*>(part[rank] + layout.groups_offset);
  }

  /// The word in `to`'s pad that `from` writes.
  ALLFOLD_HD std::uint64_t* signal(int to, int block, Leg leg, int from) const noexcept {
    return reinterpret_cast<std::uint64_t*>(part[to] + layout.pads_offset) +
           (block * leg_count + static_cast<int>(leg)) * layout.world_size + from;
  }

  /// Where a block's packets begin in each part: those of rank 0, then of rank 1, and so on. Epochs take turns between
  /// two sets: who sends in epoch e + 2 has seen the peer enter e + 1, hence leave e. `world_size` is the layout's; a
  /// kernel may know it better.
  ALLFOLD_HD std::size_t packets_offset(int world_size, int block, std::uint32_t epoch, Stage stage) const noexcept {
    const unsigned set = (epoch & 1U) * stage_count + static_cast<unsigned>(stage);
    const unsigned slot = static_cast<unsigned>(block) * DeviceLayout::block_packets(world_size) +
                          set * static_cast<unsigned>(world_size * DeviceLayout::packets);
    return layout.packets_offset + std::size_t{slot} * sizeof(DevicePacket);
  }

  /// Where a set of a block's wide packets begins in each part: inputs, then results, each of one source after the other.
  ALLFOLD_HD std::size_t wide_offset(int block, std::uint32_t set) const noexcept {
    return layout.wide_offset + std::size_t{static_cast<std::uint32_t>(block) * 2 + set} * stage_count *
                                    DeviceLayout::wide_room * sizeof(DevicePacket);
  }

  /// Staging memory as a buffer that begins `offset` bytes into every rank's.
  ALLFOLD_HD Buffer staging_buffer(std::size_t offset) const noexcept {
    Buffer buffer;
    for (int r = 0; r < layout.world_size; ++r) buffer.at[r] = part[r] + layout.staging_offset + offset;
    buffer.reach = Reach::mapped;
    return buffer;
  }

  ALLFOLD_HD void* inbox(int of, int block, int slot) const noexcept {
    const auto index = static_cast<std::size_t>(block * 2 * push_slots * layout.world_size + slot);
    return part[of] + layout.inbox_offset + index * layout.inbox_slot_bytes;
  }
};

/// One call, as its kernel sees it.
struct DeviceCall {
  CallRecord record;
  std::uint64_t timeout_ns = 0;
  std::uint32_t tag = 0;
  std::uint8_t channel = 0;
  bool counts = true;  ///< it is one of the user's calls
};

}  // namespace allfold
