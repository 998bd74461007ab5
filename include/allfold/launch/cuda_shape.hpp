// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

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

/// The grid that runs `algorithm` on a vector of `bytes`. The same on every rank, for it depends on what ranks agree on.
/// Source: docs/decisions/0007-device-constants.md.
constexpr GridShape device_shape(Algorithm algorithm, std::size_t bytes, int world_size, int most_blocks) noexcept {
  const auto ranks = static_cast<std::size_t>(world_size);
  constexpr int packet_lanes = most_threads - watch_threads;
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

/// Groups of sixteen wide packets, of 240 bytes, that a rank sends to a peer in one stage.
constexpr std::size_t wide_groups(Algorithm algorithm, std::size_t bytes, int world_size) noexcept {
  const std::size_t part =
      algorithm == Algorithm::two_shot_packet ? bytes / static_cast<std::size_t>(world_size) : bytes;
  return part / 240 + 1;
}

/// The grid of a call with wide packets. A lane has a packet in each of several passes.
constexpr GridShape wide_shape(Algorithm algorithm, std::size_t bytes, int world_size, int most_blocks) noexcept {
  return detail::spread(wide_groups(algorithm, bytes, world_size) * 16, 128, most_threads - watch_threads, most_blocks);
}

/// How many groups fit one round of such a grid.
constexpr std::size_t wide_room(GridShape shape, int world_size) noexcept {
  const unsigned passes = DeviceLayout::wide_packets(world_size) / static_cast<unsigned>(shape.lanes);
  return std::size_t{passes} * static_cast<unsigned>(shape.blocks * shape.lanes) / 16;
}

/// A shorter call is over sooner with packets of twelve bytes, which take fewer instructions.
/// Source: docs/decisions/0007-device-constants.md.
constexpr std::size_t wide_from_bytes(Algorithm algorithm) noexcept {
  return std::size_t{algorithm == Algorithm::one_shot_packet ? 384U : 256U} << 10;
}

}  // namespace allfold
