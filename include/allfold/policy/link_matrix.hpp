// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <allfold/base/config.hpp>

namespace allfold {

/// How the ranks of a window are linked, as far as an algorithm cares.
enum class TopologyKind : std::uint8_t {
  unknown,           ///< some pair has no direct link, and it is no hybrid cube mesh
  fully_connected,   ///< every pair has one
  hybrid_cube_mesh,  ///< eight ranks, four links each: two quads and a matching between them (DGX-1)
};

/// Direct links between each pair of ranks: a symmetric matrix with a zero diagonal.
struct LinkMatrix {
  int world_size = 0;
  std::uint8_t links[max_window_ranks][max_window_ranks] = {};

  constexpr bool connected(int a, int b) const noexcept { return a == b || links[a][b] != 0; }
  constexpr void connect(int a, int b, std::uint8_t count = 1) noexcept { links[a][b] = links[b][a] = count; }

  friend constexpr bool operator==(const LinkMatrix&, const LinkMatrix&) = default;
};

}  // namespace allfold
