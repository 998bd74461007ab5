// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/base/config.hpp>
#include <allfold/memory/window.hpp>

namespace allfold {

/// Operands to result: lifts the first, merges the others in the order given, and rounds once.
template <class Reduction>
struct FullFold {
  using source = typename Reduction::value_type;
  using accumulator = typename Reduction::accumulator;
  using result = source;

  Reduction reduction;
  int world_size;

  ALLFOLD_HD accumulator first(const source& x) const noexcept { return reduction.lift(x); }
  ALLFOLD_HD accumulator next(const accumulator& sum, const source& x) const noexcept {
    return reduction.merge(sum, x);
  }
  ALLFOLD_HD result last(const accumulator& sum) const noexcept { return reduction.finish(sum, world_size); }
};

/// Operands to an unrounded partial result, for another fold to join.
template <class Reduction>
struct PartialFold {
  using source = typename Reduction::value_type;
  using accumulator = typename Reduction::accumulator;
  using result = accumulator;

  Reduction reduction;

  ALLFOLD_HD accumulator first(const source& x) const noexcept { return reduction.lift(x); }
  ALLFOLD_HD accumulator next(const accumulator& sum, const source& x) const noexcept {
    return reduction.merge(sum, x);
  }
  ALLFOLD_HD result last(const accumulator& sum) const noexcept { return sum; }
};

/// Partial results to one, for another fold to join.
template <class Reduction>
struct JoinFold {
  using source = typename Reduction::accumulator;
  using accumulator = source;
  using result = source;

  Reduction reduction;

  ALLFOLD_HD accumulator first(const source& x) const noexcept { return x; }
  ALLFOLD_HD accumulator next(const accumulator& sum, const source& x) const noexcept { return reduction.join(sum, x); }
  ALLFOLD_HD result last(const accumulator& sum) const noexcept { return sum; }
};

/// Partial results to the result.
template <class Reduction>
struct FinalFold {
  using source = typename Reduction::accumulator;
  using accumulator = source;
  using result = typename Reduction::value_type;

  Reduction reduction;
  int world_size;

  ALLFOLD_HD accumulator first(const source& x) const noexcept { return x; }
  ALLFOLD_HD accumulator next(const accumulator& sum, const source& x) const noexcept { return reduction.join(sum, x); }
  ALLFOLD_HD result last(const accumulator& sum) const noexcept { return reduction.finish(sum, world_size); }
};

/// Whose parts of a buffer are folded, in this order.
struct Operands {
  int rank[max_window_ranks] = {};
  int count = 0;

  /// The ranks of `mask`, ascending: the order that every all-reduce promises.
  ALLFOLD_HD static constexpr Operands ascending(RankMask mask) noexcept {
    Operands operands;
    for (int r = 0; r < max_window_ranks; ++r) {
      if (has_rank(mask, r)) operands.rank[operands.count++] = r;
    }
    return operands;
  }

  ALLFOLD_HD static constexpr Operands pair(int first, int second) noexcept {
    Operands operands;
    operands.rank[0] = first;
    operands.rank[1] = second;
    operands.count = 2;
    return operands;
  }
};

/// The buffer from element `begin` on.
template <class T>
ALLFOLD_HD Buffer slice(const Buffer& buffer, std::size_t begin) noexcept {
  Buffer result = buffer;
  for (void*& at : result.at) {
    if (at != nullptr) at = static_cast<T*>(at) + begin;
  }
  return result;
}

/// The buffer with another pointer for `rank`'s part. No index that depends on the rank: kernels keep it in registers.
ALLFOLD_HD inline Buffer with_part(Buffer buffer, int rank, void* at) noexcept {
  for (int r = 0; r < max_window_ranks; ++r) buffer.at[r] = r == rank ? at : buffer.at[r];
  return buffer;
}

/// A buffer of which only `rank`'s part is used, by itself.
ALLFOLD_HD inline Buffer own_buffer(int rank, void* at) noexcept { return with_part({}, rank, at); }

}  // namespace allfold
