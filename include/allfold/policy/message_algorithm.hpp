// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

/// The algorithms over messages, for each collective those it has, named for their motion.

namespace allfold {

/// `gathered`, `bruck` and `direct` are reproducible; `recursive_doubling`, `rabenseifner` and `ring` are fast, and
/// `ring` needs an operator that commutes.
enum class AllReduceMotion : std::uint8_t { recursive_doubling, ring, rabenseifner, gathered, bruck, direct };
/// `gathered` and `direct` are reproducible.
enum class ReduceMotion : std::uint8_t { knomial, gathered, direct };
/// `pairwise` is reproducible.
enum class ReduceScatterMotion : std::uint8_t { recursive_halving, pairwise };
enum class BroadcastMotion : std::uint8_t { knomial, scatter_all_gather };
enum class AllGatherMotion : std::uint8_t { bruck, recursive_doubling, ring, pairwise };
enum class AllToAllMotion : std::uint8_t { bruck, pairwise };

inline constexpr AllReduceMotion all_reduce_motions[] = {
    AllReduceMotion::recursive_doubling, AllReduceMotion::ring,  AllReduceMotion::rabenseifner,
    AllReduceMotion::gathered,           AllReduceMotion::bruck, AllReduceMotion::direct};
inline constexpr ReduceMotion reduce_motions[] = {ReduceMotion::knomial, ReduceMotion::gathered, ReduceMotion::direct};
inline constexpr ReduceScatterMotion reduce_scatter_motions[] = {ReduceScatterMotion::recursive_halving,
                                                                 ReduceScatterMotion::pairwise};
inline constexpr BroadcastMotion broadcast_motions[] = {BroadcastMotion::knomial, BroadcastMotion::scatter_all_gather};
inline constexpr AllGatherMotion all_gather_motions[] = {AllGatherMotion::bruck, AllGatherMotion::recursive_doubling,
                                                         AllGatherMotion::ring, AllGatherMotion::pairwise};
inline constexpr AllToAllMotion all_to_all_motions[] = {AllToAllMotion::bruck, AllToAllMotion::pairwise};

constexpr std::string_view name(AllReduceMotion motion) noexcept {
  constexpr std::string_view names[] = {"recursive_doubling", "ring", "rabenseifner", "gathered", "bruck", "direct"};
  return names[static_cast<std::size_t>(motion)];
}
constexpr std::string_view name(ReduceMotion motion) noexcept {
  constexpr std::string_view names[] = {"knomial", "gathered", "direct"};
  return names[static_cast<std::size_t>(motion)];
}
constexpr std::string_view name(ReduceScatterMotion motion) noexcept {
  constexpr std::string_view names[] = {"recursive_halving", "pairwise"};
  return names[static_cast<std::size_t>(motion)];
}
constexpr std::string_view name(BroadcastMotion motion) noexcept {
  constexpr std::string_view names[] = {"knomial", "scatter_all_gather"};
  return names[static_cast<std::size_t>(motion)];
}
constexpr std::string_view name(AllGatherMotion motion) noexcept {
  constexpr std::string_view names[] = {"bruck", "recursive_doubling", "ring", "pairwise"};
  return names[static_cast<std::size_t>(motion)];
}
constexpr std::string_view name(AllToAllMotion motion) noexcept {
  constexpr std::string_view names[] = {"bruck", "pairwise"};
  return names[static_cast<std::size_t>(motion)];
}

/// Whether the bits are those of the fold in ascending rank order, on every rank and whatever else differs.
constexpr bool is_reproducible(AllReduceMotion motion) noexcept { return motion >= AllReduceMotion::gathered; }
constexpr bool is_reproducible(ReduceMotion motion) noexcept { return motion >= ReduceMotion::gathered; }
constexpr bool is_reproducible(ReduceScatterMotion motion) noexcept { return motion == ReduceScatterMotion::pairwise; }

/// What a selector of message algorithms is asked: one collective that is about to run. The same on every rank.
struct MessageQuery {
  std::size_t bytes = 0;  ///< of a rank's whole vector: of all parts where a collective divides it
  int world_size = 1;
  bool reproducible = false;  ///< the bits of the fold in rank order are asked for
  bool commutes = true;       ///< the operator does
  bool widens = false;        ///< partial results are wider than values
};

}  // namespace allfold
