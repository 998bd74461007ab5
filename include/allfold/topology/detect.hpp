// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include <allfold/base/config.hpp>
#include <allfold/policy/link_matrix.hpp>

namespace allfold {

/// Who is next to whom in a hybrid cube mesh: eight ranks in two quads that are fully linked within, and a matching
/// of four links between the quads. Plain bytes: kernels take it by value.
struct HybridCubeMesh {
  static constexpr int ranks = 8;

  std::int8_t quad[ranks];      ///< 0 for the ranks of rank 0's quad, else 1
  std::int8_t mates[ranks][3];  ///< the others of a rank's quad, ascending
  std::int8_t partner[ranks];   ///< the one neighbour in the other quad

  ALLFOLD_HD constexpr bool neighbours(int a, int b) const noexcept {
    return a != b && (quad[a] == quad[b] || partner[a] == b);
  }
  /// The rank next to both through which `a` reaches `b`, its partner; -1 if they are neighbours or the same.
  /// Each rank relays for one other, to three.
  ALLFOLD_HD constexpr int relay(int a, int b) const noexcept { return a == b || neighbours(a, b) ? -1 : partner[a]; }
};

namespace detail {

/// Linked, and in both directions.
constexpr bool linked(const LinkMatrix& matrix, int a, int b) noexcept {
  return matrix.links[a][b] != 0 && matrix.links[b][a] != 0;
}

constexpr int links_of(const LinkMatrix& matrix, int rank) noexcept {
  int count = 0;
  for (int other = 0; other < matrix.world_size; ++other) {
    if (other != rank && linked(matrix, rank, other)) ++count;
  }
  return count;
}

}  // namespace detail

/// The quads and partners of a hybrid cube mesh, whatever the numbering of its ranks; nothing if the links are any
/// other graph. Only whether a link exists counts, not how many there are side by side.
constexpr std::optional<HybridCubeMesh> find_hybrid_cube_mesh(const LinkMatrix& matrix) noexcept {
  constexpr int ranks = HybridCubeMesh::ranks;
  if (matrix.world_size != ranks) return std::nullopt;
  for (int rank = 0; rank < ranks; ++rank) {
    if (detail::links_of(matrix, rank) != 4) return std::nullopt;
  }
  // Two neighbours of one quad share neighbours, the ends of a link between quads share none. This finds the only
  // candidate for the partner of each rank.
  HybridCubeMesh mesh{};
  for (int rank = 0; rank < ranks; ++rank) {
    int mates = 0;
    mesh.partner[rank] = -1;
    for (int other = 0; other < ranks; ++other) {
      if (other == rank || !detail::linked(matrix, rank, other)) continue;
      int shared = 0;
      for (int third = 0; third < ranks; ++third) {
        if (third != rank && third != other && detail::linked(matrix, rank, third) &&
            detail::linked(matrix, other, third)) {
          ++shared;
        }
      }
      if (shared == 2 && mates < 3) {
        mesh.mates[rank][mates++] = static_cast<std::int8_t>(other);
      } else if (shared == 0 && mesh.partner[rank] < 0) {
        mesh.partner[rank] = static_cast<std::int8_t>(other);
      } else {
        return std::nullopt;
      }
    }
    if (mates != 3 || mesh.partner[rank] < 0) return std::nullopt;
  }
  for (int rank = 0; rank < ranks; ++rank) mesh.quad[rank] = 1;
  mesh.quad[0] = 0;
  for (const std::int8_t mate : mesh.mates[0]) mesh.quad[mate] = 0;
  for (int a = 0; a < ranks; ++a) {
    if (mesh.quad[a] == mesh.quad[mesh.partner[a]]) return std::nullopt;
    for (int b = 0; b < ranks; ++b) {
      if (a != b && mesh.neighbours(a, b) != detail::linked(matrix, a, b)) return std::nullopt;
    }
  }
  return mesh;
}

/// What the links make of the ranks. One rank is fully connected; more are if each pair has a link in both
/// directions.
constexpr TopologyKind classify(const LinkMatrix& matrix) noexcept {
  const int ranks = matrix.world_size;
  if (ranks < 1 || ranks > max_window_ranks) return TopologyKind::unknown;
  int linked = 0;
  for (int rank = 0; rank < ranks; ++rank) linked += detail::links_of(matrix, rank);
  if (linked == ranks * (ranks - 1)) return TopologyKind::fully_connected;
  return find_hybrid_cube_mesh(matrix) ? TopologyKind::hybrid_cube_mesh : TopologyKind::unknown;
}

}  // namespace allfold
