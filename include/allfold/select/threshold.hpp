// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/policy/algorithm.hpp>
#include <allfold/policy/link_matrix.hpp>
#include <allfold/policy/selector.hpp>

namespace allfold {

/// Chooses by size alone: one_shot, then two_shot where every pair of ranks is linked; hybrid_cube_mesh on ranks
/// linked so. Answers `none` beyond the thresholds, on unaligned buffers, on any other topology, and where its
/// choice cannot run. A plain value: set the thresholds by name. They must be the same on every rank.
struct ThresholdSelector {
  using policy_category = selector_tag;
  static constexpr AlgorithmSet candidates = AlgorithmSet::of(Algorithm::none) | AlgorithmSet::of(Algorithm::one_shot) |
                                             AlgorithmSet::of(Algorithm::two_shot) |
                                             AlgorithmSet::of(Algorithm::hybrid_cube_mesh);

  std::size_t one_shot_bytes = std::size_t{256} << 10;          ///< the most that one_shot is chosen for
  std::size_t two_shot_bytes = std::size_t{10} << 20;           ///< likewise; the default staging buffer's size
  std::size_t hybrid_cube_mesh_bytes = std::size_t{256} << 10;  ///< likewise

  constexpr Algorithm select(const SelectionQuery& query) const noexcept {
    const Algorithm choice = by_size(query);
    return query.aligned && query.possible.contains(choice) ? choice : Algorithm::none;
  }

  friend constexpr bool operator==(const ThresholdSelector&, const ThresholdSelector&) = default;

 private:
  constexpr Algorithm by_size(const SelectionQuery& query) const noexcept {
    switch (query.topology) {
      case TopologyKind::fully_connected:
        if (query.bytes <= one_shot_bytes) return Algorithm::one_shot;
        return query.bytes <= two_shot_bytes ? Algorithm::two_shot : Algorithm::none;
      case TopologyKind::hybrid_cube_mesh:
        return query.bytes <= hybrid_cube_mesh_bytes ? Algorithm::hybrid_cube_mesh : Algorithm::none;
      case TopologyKind::unknown: break;
    }
    return Algorithm::none;
  }
};
static_assert(selector_policy<ThresholdSelector>);

}  // namespace allfold
