// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>

#include <allfold/algo/chunk.hpp>
#include <allfold/base/config.hpp>
#include <allfold/memory/device_channel.hpp>
#include <allfold/policy/algorithm.hpp>

namespace allfold {

/// The grid of one call: blocks, each of so many lanes (a multiple of 32).
struct GridShape {
  int blocks = 1;
  int lanes = 32;

  friend constexpr bool operator==(const GridShape&, const GridShape&) = default;
};

/// Threads of a block besides its lanes, where it sends packets.
inline constexpr int watch_threads = 32;
/// The most lanes beside them, and warps of these.
inline constexpr int packet_lanes = most_threads - watch_threads;
inline constexpr std::size_t packet_warps = packet_lanes / 32;

namespace detail {

constexpr int divide_up(std::size_t n, std::size_t by) noexcept { return static_cast<int>((n + by - 1) / by); }

/// As many blocks of `lanes` as `units` of work want; lanes are added only where the blocks do not suffice.
constexpr GridShape spread(std::size_t units, int lanes, int most_lanes, int most_blocks) noexcept {
  if (units <= static_cast<std::size_t>(lanes)) return {1, units == 0 ? 32 : divide_up(units, 32) * 32};
  const auto most = static_cast<std::size_t>(most_blocks);
  while (lanes < most_lanes && units > most * static_cast<std::size_t>(lanes)) lanes += 32;
  const int blocks = divide_up(units, static_cast<std::size_t>(lanes));
  return {blocks < most_blocks ? blocks : most_blocks, lanes};
}

}  // namespace detail

/// The grid that runs `algorithm` on a vector of `bytes`. The same on every rank, for it depends on what ranks agree
/// on.
/// Source: docs/decisions/0007-device-constants.md.
constexpr GridShape device_shape(Algorithm algorithm, std::size_t bytes, int world_size, int most_blocks) noexcept {
  const auto ranks = static_cast<std::size_t>(world_size);
  switch (algorithm) {
    case Algorithm::one_shot_packet:
      return detail::spread((bytes + 11) / 12, ranks == 2 ? 32 : 128, packet_lanes, most_blocks);
    case Algorithm::two_shot_packet: return detail::spread((bytes / ranks + 12) / 12, 128, packet_lanes, most_blocks);
    case Algorithm::one_shot:
    case Algorithm::hybrid_cube_mesh: return detail::spread(bytes / 16, most_threads, most_threads, most_blocks);
    case Algorithm::none:
    case Algorithm::two_shot: return detail::spread(bytes / 16 / ranks, most_threads, most_threads, most_blocks);
    case Algorithm::one_shot_push: return detail::spread(bytes / 16, most_threads, most_threads, most_blocks);
    case Algorithm::two_shot_push:
      // A power of two, where there are as many: then shards are cut into blocks and chunks of one length.
      return detail::spread(bytes / 16 / ranks, most_threads, most_threads, most_blocks < 128 ? most_blocks : 128);
  }
  return {};
}

/// How many wide packets a lane handles at a time, where a rank sends so many bytes to a peer in one stage. With two,
/// fewer bits are tags; with one, a short call spreads over more warps.
/// Source: docs/decisions/0007-device-constants.md.
constexpr int wide_packets_of_lane(std::size_t part_bytes, int world_size) noexcept {
  return world_size > 2 && part_bytes < (std::size_t{448} << 10) ? 1 : 2;
}

/// How a call goes in wide packets: in rounds of one launch each, of whole vectors.
struct WidePlan {
  int parts;                ///< one of which a rank sends to each peer in a stage
  int packets_of_lane;      ///< at a time
  std::size_t round_bytes;  ///< of every round but the last, which may be shorter
  int most_blocks;

  /// `bytes`: more than 0, of whole vectors.
  static constexpr WidePlan of(Algorithm algorithm, std::size_t bytes, int world_size, int most_blocks) noexcept {
    const int parts = algorithm == Algorithm::two_shot_packet ? world_size : 1;
    const int of_lane = wide_packets_of_lane(bytes / static_cast<std::size_t>(parts), world_size);
    const std::size_t passes = PacketSlots::wide(world_size).room / static_cast<unsigned>(of_lane * packet_lanes);
    const std::size_t most =
        passes * packet_warps * static_cast<std::size_t>(most_blocks * parts) * warp_bytes(of_lane);
    return {parts, of_lane, share_of(bytes, detail::divide_up(bytes, most), 16), most_blocks};
  }

  /// What the lanes of a warp send at a time.
  static constexpr std::size_t warp_bytes(int packets_of_lane) noexcept {
    return (static_cast<std::size_t>(packets_of_lane) * 32 - 1) * 16;
  }

  /// The grid of a round: all blocks have alike much to do, in few passes.
  constexpr GridShape shape(std::size_t bytes) const noexcept {
    const auto warps = static_cast<std::size_t>(
        detail::divide_up(bytes, static_cast<std::size_t>(parts) * warp_bytes(packets_of_lane)));
    const auto blocks = static_cast<std::size_t>(most_blocks);
    const auto passes = static_cast<std::size_t>(detail::divide_up(warps, blocks * packet_warps));
    const int each = detail::divide_up(warps, blocks * passes);
    return {detail::divide_up(warps, static_cast<std::size_t>(each) * passes), each * 32};
  }
};

/// A shorter call is over sooner with packets of twelve bytes, which take fewer instructions; of two ranks while no
/// lane has more than one of them.
/// Source: docs/decisions/0007-device-constants.md.
constexpr std::size_t wide_from_bytes(Algorithm algorithm, int world_size, int most_blocks) noexcept {
  constexpr std::size_t kib = 1024;
  if (algorithm == Algorithm::two_shot_packet) return 256 * kib;
  if (world_size > 2) return 192 * kib;
  const std::size_t one_each = static_cast<std::size_t>(most_blocks * packet_lanes) * DevicePacket::payload_bytes;
  return std::clamp(one_each, 320 * kib, 448 * kib);
}

}  // namespace allfold
