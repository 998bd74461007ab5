// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <allfold/base/error.hpp>
#include <allfold/policy/identity.hpp>
#include <allfold/policy/link_matrix.hpp>
#include <allfold/policy/topology.hpp>

namespace allfold {

/// Every pair of ranks with one direct link.
constexpr LinkMatrix fully_connected_links(int world_size) noexcept {
  LinkMatrix matrix;
  matrix.world_size = world_size;
  for (int a = 0; a < world_size; ++a) {
    for (int b = 0; b < a; ++b) matrix.connect(a, b);
  }
  return matrix;
}

/// Links that the caller knows: the default for CPU ranks, where memory links each pair, and a stand-in for a
/// machine that is not at hand.
class FixedTopology {
 public:
  using policy_category = topology_tag;

  /// Fully connected, for any world size of one window.
  FixedTopology() noexcept = default;

  /// These links, and none but this world size.
  /// @throws UsageError if the matrix is not symmetric with a zero diagonal, or its world size is out of range.
  explicit FixedTopology(const LinkMatrix& matrix) : matrix_(matrix) { check(matrix); }

  /// @throws UsageError if the world size is not the matrix's, or larger than a window spans.
  LinkMatrix links(std::span<const Identity> ranks) const {
    const auto world_size = static_cast<int>(ranks.size());
    if (matrix_.world_size == 0) {
      if (world_size > max_window_ranks) refuse_world_size(world_size);
      return fully_connected_links(world_size);
    }
    if (matrix_.world_size != world_size) refuse_mismatch(matrix_.world_size, world_size);
    return matrix_;
  }

 private:
  ALLFOLD_COLD static void check(const LinkMatrix& matrix) {
    if (matrix.world_size < 1 || matrix.world_size > max_window_ranks) refuse_world_size(matrix.world_size);
    for (int a = 0; a < matrix.world_size; ++a) {
      if (matrix.links[a][a] != 0) {
        throw UsageError("topology", {"rank ", a, " has a link to itself; expected a zero diagonal"});
      }
      for (int b = 0; b < a; ++b) {
        if (matrix.links[a][b] != matrix.links[b][a]) {
          throw UsageError("topology", {"the link matrix is not symmetric; expected as many links from rank ", a,
                                        " to rank ", b, " as back, got ", int{matrix.links[a][b]}, " and ",
                                        int{matrix.links[b][a]}, "; try LinkMatrix::connect, which sets both"});
        }
      }
    }
  }

  [[noreturn]] ALLFOLD_COLD static void refuse_world_size(int world_size) {
    throw UsageError("topology", {"a link matrix spans 1 to ", max_window_ranks, " ranks, got ", world_size,
                                  "; try a message transport for larger worlds"});
  }

  [[noreturn]] ALLFOLD_COLD static void refuse_mismatch(int expected, int got) {
    throw UsageError("topology", {"the link matrix of FixedTopology is of another world size; expected ", expected,
                                  " ranks, got ", got, "; try FixedTopology() for ranks that are all linked"});
  }

  LinkMatrix matrix_;  // of no ranks: fully connected
};
static_assert(topology_policy<FixedTopology>);

}  // namespace allfold
