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

/// How a block's rounds with wide packets use its slots. They take turns at two sets, and the uses of a set have the
/// tags 1 and 2 in turn. So no round meets a packet that it could take for its own, as long as a use leaves its own tag
/// or none in all slots of its set: peers write those that the round fills, and the receiver clears what else was
/// filled before.
struct WideRounds {
  std::uint32_t count;   ///< of all rounds, the current one included
  std::uint64_t filled;  ///< [set][stage], of 16 bits: no slot of a source after so many carries a tag

  ALLFOLD_HD constexpr unsigned set() const noexcept { return count & 1U; }
  ALLFOLD_HD constexpr std::uint32_t tag() const noexcept { return 1 + (count >> 1 & 1U); }

  /// The round fills so many slots of each source, from the first on. Returns the end of those that carry a tag of the
  /// set's last use: what lies between is to be cleared.
  ALLFOLD_HD constexpr unsigned fill(Stage stage, unsigned slots) noexcept {
    const unsigned shift = (set() * stage_count + static_cast<unsigned>(stage)) * 16;
    const unsigned end = filled >> shift & 0xffffU;
    filled = (filled & ~(std::uint64_t{0xffff} << shift)) | std::uint64_t{slots} << shift;
    return end;
  }
};

/// What one block remembers from call to call. It lives on the GPU, so that a replayed graph goes on from where the
/// last call ended, eager or captured; each block has its own, so that none waits for its siblings.
struct alignas(32) BlockState {
  std::uint32_t epoch;  ///< of its last round
  std::uint32_t calls;  ///< of the channel; block 0 counts, for it takes part in every call
  WideRounds wide;
};

/// One packet of GPU ranks: data and its flag in what one store writes at once, and one load reads at once.
struct alignas(16) DevicePacket {
  static constexpr std::size_t payload_bytes = 12;
  static constexpr std::size_t largest_element = 96;

  std::uint32_t data[3];
  std::uint32_t flag;  ///< the epoch it belongs to; of a wide packet, data and tag
};

/// Where packets of one kind lie in a rank's part of a channel, counted in packets. A block has two sets of slots,
/// which its rounds use in turn: who sends in round e + 2 has seen the peer enter e + 1, hence leave e. A set has the
/// slots of each stage, a stage one slot of each source. How far apart blocks lie decides how evenly what they receive
/// at once spreads over the GPU's memory, which is why some lie further apart than they need to.
/// Source: docs/decisions/0007-device-constants.md, "Where packets lie".
struct PacketSlots {
  unsigned room = 0;          ///< what a slot holds
  unsigned sources = 0;       ///< slots of a stage
  unsigned block_stride = 0;  ///< from one block's first slot to the next's

  /// What a slot of packets of 12 bytes holds, in every world.
  static constexpr unsigned packet_room = 1024;

  /// Of packets of 12 bytes.
  ALLFOLD_HD static constexpr PacketSlots of(int world_size) noexcept {
    const auto ranks = static_cast<unsigned>(world_size);
    return {packet_room, ranks, 2 * stage_count * ranks * packet_room + (world_size == 2 ? 32 : 0)};
  }

  /// The worlds that have wide packets: those that have a kernel of their own, and where they are known to pay.
  ALLFOLD_HD static constexpr bool has_wide(int world_size) noexcept { return world_size == 2 || world_size == 4; }

  /// Of wide packets. Of two ranks only one is a source. A slot holds nine passes of fifteen warps with two packets of
  /// each lane; of four ranks, two passes. With 132 blocks these are 17 and 15 MiB, enough for what TunedSelector sends
  /// in packets. Blocks lie 544 KiB apart; with 480, which would do, they receive more slowly.
  ALLFOLD_HD static constexpr PacketSlots wide(int world_size) noexcept {
    constexpr unsigned of_block = (544U << 10) / sizeof(DevicePacket);
    constexpr unsigned of_stage = of_block / (2 * stage_count);
    static_assert(of_stage < 1U << 16 && 2 * stage_count * 16 == 64);  // WideRounds::filled
    if (!has_wide(world_size)) return {};
    const unsigned sources = world_size == 2 ? 1 : static_cast<unsigned>(world_size);
    return {of_stage / sources, sources, of_block};
  }

  /// Where the slot of a source begins, counted from the first block's first.
  ALLFOLD_HD constexpr unsigned begin(int block, unsigned set, Stage stage, unsigned source) const noexcept {
    return static_cast<unsigned>(block) * block_stride +
           ((set * stage_count + static_cast<unsigned>(stage)) * sources + source) * room;
  }
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

  static DeviceLayout of(int world_size, int blocks, std::size_t staging_bytes, std::size_t inbox_slot_bytes) noexcept {
    DeviceLayout layout{.world_size = world_size,
                        .blocks = blocks,
                        .staging_bytes = staging_bytes,
                        .inbox_slot_bytes = inbox_slot_bytes};
    const auto n = static_cast<std::size_t>(blocks);
    const auto ranks = static_cast<std::size_t>(world_size);
    layout.groups_offset = sizeof(BlockState) * n;
    layout.pads_offset = whole_device_lines(layout.groups_offset + sizeof(std::uint32_t) * max_window_ranks);
    layout.packets_offset = whole_device_lines(layout.pads_offset + sizeof(std::uint64_t) * n * leg_count * ranks);
    layout.wide_offset =
        whole_device_lines(layout.packets_offset + sizeof(DevicePacket) * n * PacketSlots::of(world_size).block_stride);
    layout.staging_offset =
        whole_device_lines(layout.wide_offset + sizeof(DevicePacket) * n * PacketSlots::wide(world_size).block_stride);
    layout.inbox_offset = whole_device_lines(layout.staging_offset + staging_bytes);
    layout.bytes = whole_device_lines(layout.inbox_offset + inbox_slot_bytes * n * 2 * push_slots * ranks);
    return layout;
  }
};

/// One rank's view of a channel: every rank's pads, packets, staging memory and inboxes. Trivially copyable: it is
/// passed to kernels by value.
struct DeviceChannelView {
  DeviceLayout layout;
  int rank = 0;
  /// A call of no more blocks may be on the GPU at once with such a call before it, which has all but ended, or after
  /// it: both take room that no other channel can need.
  int early_blocks = 0;
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
