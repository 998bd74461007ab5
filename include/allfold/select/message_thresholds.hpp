// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <limits>
#include <span>

#include <allfold/policy/message_algorithm.hpp>
#include <allfold/policy/selector.hpp>

namespace allfold {

/// The algorithms for worlds up to a size, in three ranges of bytes; bounds are inclusive.
template <class Motion>
struct MotionRow {
  int up_to_ranks;
  Motion small;
  std::size_t small_bytes;  ///< the most that `small` is chosen for
  Motion medium;
  std::size_t medium_bytes;
  Motion large;
};

namespace detail {

inline constexpr int any_ranks = std::numeric_limits<int>::max();
inline constexpr std::size_t KiB = 1024;
inline constexpr std::size_t MiB = 1024 * KiB;

template <class Motion>
constexpr MotionRow<Motion> always(int up_to_ranks, Motion motion) noexcept {
  return {up_to_ranks, motion, 0, motion, 0, motion};
}
template <class Motion>
constexpr MotionRow<Motion> up_to(int up_to_ranks, Motion small, std::size_t bytes, Motion large) noexcept {
  return {up_to_ranks, small, bytes, large, bytes, large};
}

/// To 4 ranks what was fastest, or nearly so, over TCP, all algorithms in one run on 2 cores; beyond that, and where 3
/// or 4 ranks with a core each would do better otherwise, what the simulated network finds fastest with the model
/// `tcp_loopback`, which was fitted to that run. Long broadcasts are as those of 4 ranks, and of 2 ranks what
/// allfold_perf finds faster (docs/decisions/0012-ucx-constants.md).
/// Source: bench/results/xeon-2c-ucx-tcp-algorithms-2026-11-22.csv, docs/scaling.md.
inline constexpr auto all_reduce_rows = [] {
  using enum AllReduceMotion;
  return std::to_array<MotionRow<AllReduceMotion>>({
      up_to(2, gathered, 64 * KiB, direct),
      up_to(3, gathered, 32 * KiB, direct),
      {4, recursive_doubling, 32 * KiB, rabenseifner, 128 * KiB, direct},
      {7, gathered, 16 * KiB, recursive_doubling, 32 * KiB, direct},
      {8, recursive_doubling, 32 * KiB, rabenseifner, 128 * KiB, direct},
      {12, gathered, 4 * KiB, recursive_doubling, 64 * KiB, direct},
      {16, recursive_doubling, 32 * KiB, rabenseifner, 128 * KiB, direct},
      {24, gathered, 1 * KiB, recursive_doubling, 64 * KiB, direct},
      {32, recursive_doubling, 32 * KiB, rabenseifner, 128 * KiB, direct},
      {127, recursive_doubling, 32 * KiB, rabenseifner, 256 * KiB, direct},
      {256, recursive_doubling, 16 * KiB, rabenseifner, 1 * MiB, direct},
      {512, recursive_doubling, 16 * KiB, rabenseifner, 4 * MiB, direct},
      {1024, recursive_doubling, 16 * KiB, rabenseifner, 8 * MiB, direct},
      {any_ranks, recursive_doubling, 16 * KiB, rabenseifner, 32 * MiB, direct},
  });
}();

inline constexpr auto reproducible_all_reduce_rows = [] {
  using enum AllReduceMotion;
  return std::to_array<MotionRow<AllReduceMotion>>({
      up_to(2, gathered, 64 * KiB, direct),
      up_to(4, gathered, 32 * KiB, direct),
      {7, gathered, 16 * KiB, bruck, 32 * KiB, direct},
      {8, gathered, 16 * KiB, bruck, 64 * KiB, direct},
      {12, gathered, 8 * KiB, bruck, 64 * KiB, direct},
      {16, gathered, 8 * KiB, bruck, 128 * KiB, direct},
      {24, gathered, 4 * KiB, bruck, 64 * KiB, direct},
      {32, gathered, 4 * KiB, bruck, 128 * KiB, direct},
      {64, gathered, 2 * KiB, bruck, 128 * KiB, direct},
      {128, gathered, 1 * KiB, bruck, 256 * KiB, direct},
      {256, gathered, 512, bruck, 512 * KiB, direct},
      {512, gathered, 128, bruck, 1 * MiB, direct},
      {1024, gathered, 64, bruck, 2 * MiB, direct},
      {any_ranks, gathered, 64, bruck, 8 * MiB, direct},
  });
}();

inline constexpr auto reduce_rows = [] {
  using enum ReduceMotion;
  return std::to_array<MotionRow<ReduceMotion>>({
      up_to(2, gathered, 4 * MiB, direct),
      {3, knomial, 8 * KiB, gathered, 32 * KiB, direct},
      {4, knomial, 2 * KiB, gathered, 32 * KiB, direct},
      up_to(8, knomial, 32 * KiB, direct),
      up_to(64, knomial, 64 * KiB, direct),
      up_to(128, knomial, 128 * KiB, direct),
      up_to(256, knomial, 256 * KiB, direct),
      up_to(512, knomial, 512 * KiB, direct),
      up_to(1024, knomial, 1 * MiB, direct),
      up_to(any_ranks, knomial, 4 * MiB, direct),
  });
}();

inline constexpr auto reproducible_reduce_rows = [] {
  using enum ReduceMotion;
  return std::to_array<MotionRow<ReduceMotion>>({
      up_to(2, gathered, 4 * MiB, direct),
      up_to(4, gathered, 32 * KiB, direct),
      up_to(256, gathered, 16 * KiB, direct),
      up_to(any_ranks, gathered, 8 * KiB, direct),
  });
}();

inline constexpr auto reduce_scatter_rows = [] {
  using enum ReduceScatterMotion;
  return std::to_array<MotionRow<ReduceScatterMotion>>({
      always(3, pairwise),
      up_to(4, recursive_halving, 64 * KiB, pairwise),
      always(5, pairwise),
      up_to(7, recursive_halving, 8 * KiB, pairwise),
      up_to(8, recursive_halving, 128 * KiB, pairwise),
      up_to(12, recursive_halving, 32 * KiB, pairwise),
      up_to(16, recursive_halving, 128 * KiB, pairwise),
      up_to(24, recursive_halving, 64 * KiB, pairwise),
      up_to(32, recursive_halving, 128 * KiB, pairwise),
      up_to(127, recursive_halving, 256 * KiB, pairwise),
      up_to(256, recursive_halving, 1 * MiB, pairwise),
      up_to(512, recursive_halving, 4 * MiB, pairwise),
      up_to(1024, recursive_halving, 8 * MiB, pairwise),
      up_to(any_ranks, recursive_halving, 32 * MiB, pairwise),
  });
}();

inline constexpr auto broadcast_rows = [] {
  using enum BroadcastMotion;
  return std::to_array<MotionRow<BroadcastMotion>>({
      always(2, knomial),
      up_to(3, knomial, 64 * KiB, scatter_all_gather),
      {4, knomial, 128 * KiB, scatter_all_gather, 2 * MiB, knomial},
      up_to(64, knomial, 64 * KiB, scatter_all_gather),
      up_to(128, knomial, 256 * KiB, scatter_all_gather),
      up_to(512, knomial, 1 * MiB, scatter_all_gather),
      up_to(1024, knomial, 2 * MiB, scatter_all_gather),
      up_to(any_ranks, knomial, 4 * MiB, scatter_all_gather),
  });
}();

/// Where P is no power of two, recursive doubling is Bruck's algorithm.
inline constexpr auto all_gather_rows = [] {
  using enum AllGatherMotion;
  return std::to_array<MotionRow<AllGatherMotion>>({
      always(3, pairwise),
      up_to(24, recursive_doubling, 128 * KiB, pairwise),
      up_to(64, recursive_doubling, 256 * KiB, pairwise),
      up_to(127, recursive_doubling, 512 * KiB, pairwise),
      up_to(256, recursive_doubling, 1 * MiB, pairwise),
      up_to(512, recursive_doubling, 4 * MiB, pairwise),
      up_to(1024, recursive_doubling, 8 * MiB, pairwise),
      up_to(any_ranks, recursive_doubling, 32 * MiB, pairwise),
  });
}();

inline constexpr auto all_to_all_rows = [] {
  using enum AllToAllMotion;
  return std::to_array<MotionRow<AllToAllMotion>>({
      always(3, pairwise),
      up_to(8, bruck, 32 * KiB, pairwise),
      up_to(24, bruck, 64 * KiB, pairwise),
      up_to(128, bruck, 128 * KiB, pairwise),
      up_to(256, bruck, 256 * KiB, pairwise),
      up_to(512, bruck, 512 * KiB, pairwise),
      up_to(1024, bruck, 1 * MiB, pairwise),
      up_to(any_ranks, bruck, 4 * MiB, pairwise),
  });
}();

template <class Motion>
constexpr Motion pick_motion(std::span<const MotionRow<Motion>> rows, const MessageQuery& query) noexcept {
  const MotionRow<Motion>* row = rows.data();
  while (query.world_size > row->up_to_ranks && row != &rows.back()) ++row;
  if (query.bytes <= row->small_bytes) return row->small;
  return query.bytes <= row->medium_bytes ? row->medium : row->large;
}

}  // namespace detail

/// Chooses algorithms over messages: of each list the first row with room for the world size, and there by size. Worlds
/// beyond the last row go by it. A plain value; set lists of your own by name: they must outlive it, have a row at
/// least, and be the same on every rank.
struct MessageThresholds {
  using policy_category = selector_tag;

  std::span<const MotionRow<AllReduceMotion>> all_reduce_rows = detail::all_reduce_rows;
  std::span<const MotionRow<AllReduceMotion>> reproducible_all_reduce_rows = detail::reproducible_all_reduce_rows;
  std::span<const MotionRow<ReduceMotion>> reduce_rows = detail::reduce_rows;
  std::span<const MotionRow<ReduceMotion>> reproducible_reduce_rows = detail::reproducible_reduce_rows;
  std::span<const MotionRow<ReduceScatterMotion>> reduce_scatter_rows = detail::reduce_scatter_rows;
  std::span<const MotionRow<BroadcastMotion>> broadcast_rows = detail::broadcast_rows;
  std::span<const MotionRow<AllGatherMotion>> all_gather_rows = detail::all_gather_rows;
  std::span<const MotionRow<AllToAllMotion>> all_to_all_rows = detail::all_to_all_rows;

  /// Partials that are wider than values cost the fast algorithms twice the bytes: they are not chosen then.
  constexpr AllReduceMotion all_reduce(const MessageQuery& query) const noexcept {
    const bool fast = !query.reproducible && !query.widens;
    const AllReduceMotion motion = detail::pick_motion(fast ? all_reduce_rows : reproducible_all_reduce_rows, query);
    return motion == AllReduceMotion::ring && !query.commutes ? AllReduceMotion::rabenseifner : motion;
  }
  constexpr ReduceMotion reduce(const MessageQuery& query) const noexcept {
    return detail::pick_motion(query.reproducible || query.widens ? reproducible_reduce_rows : reduce_rows, query);
  }
  constexpr ReduceScatterMotion reduce_scatter(const MessageQuery& query) const noexcept {
    if (query.reproducible || query.widens) return ReduceScatterMotion::pairwise;
    return detail::pick_motion(reduce_scatter_rows, query);
  }
  constexpr BroadcastMotion broadcast(const MessageQuery& query) const noexcept {
    return detail::pick_motion(broadcast_rows, query);
  }
  constexpr AllGatherMotion all_gather(const MessageQuery& query) const noexcept {
    return detail::pick_motion(all_gather_rows, query);
  }
  constexpr AllToAllMotion all_to_all(const MessageQuery& query) const noexcept {
    return detail::pick_motion(all_to_all_rows, query);
  }
};
static_assert(message_selector_policy<MessageThresholds>);

}  // namespace allfold
