// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/algo/chunk.hpp>
#include <allfold/memory/window.hpp>

namespace allfold {

/// This rank's place in a hybrid cube mesh.
struct MeshPlace {
  RankMask quad = 0;        ///< the four ranks it is linked to all of, itself among them
  int partner = 0;          ///< its neighbour in the other quad
  bool first_quad = false;  ///< whether its quad's partial result is the left operand
};

/// One all-reduce, as its algorithms see it. Trivially copyable: it is passed to kernels by value.
template <class Reduction>
struct AllReduceCall {
  using T = typename Reduction::value_type;

  Reduction reduction;
  std::size_t count = 0;
  const T* in = nullptr;
  T* out = nullptr;  ///< may be `in`
  /// How peers reach `in` and `out`; what they cannot reach (`own`) passes through staging memory.
  Buffer inputs{};
  Buffer outputs{};
  MeshPlace mesh{};
};

/// One round of a vector that takes several. Blocks cut `grid`, which is as long in every round, and clip their part to
/// `end`: so a block finds its own part of staging memory at the same place in each round.
struct Round {
  Range grid;
  std::size_t end = 0;

  ALLFOLD_HD constexpr Range all() const noexcept { return grid.clip(end); }
};

/// Walks over [0, count) in even rounds of at most `limit` elements, which is more than 0: `body(Round)` until it says
/// false. A call without elements is one round too, so that its ranks still meet.
template <class Body>
ALLFOLD_HD bool in_rounds(std::size_t count, std::size_t limit, Body&& body) {
  // The shortest calls are spared the divisions; `body` stands here once, for kernels should be short.
  const bool one = count <= limit;
  const std::size_t rounds = one ? 1 : (count - 1) / limit + 1;
  const std::size_t each = one ? count : (count - 1) / rounds + 1;
  for (std::size_t round = 0; round < rounds; ++round) {
    const Range grid{round * each, (round + 1) * each};
    if (!body(Round{grid, grid.end < count ? grid.end : count})) return false;
  }
  return true;
}

}  // namespace allfold
