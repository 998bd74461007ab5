// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

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

/// Walks over [0, count) in rounds of at most `limit` elements: `body(Range)` until it says false. A call without
/// elements is one round too, so that its ranks still meet.
template <class Body>
ALLFOLD_HD bool in_rounds(std::size_t count, std::size_t limit, Body&& body) {
  std::size_t begin = 0;
  do {
    const std::size_t end = count - begin < limit ? count : begin + limit;
    if (!body(begin, end)) return false;
    begin = end;
  } while (begin < count);
  return true;
}

}  // namespace allfold
