// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/base/config.hpp>

namespace allfold {

/// Elements [begin, end).
struct Range {
  std::size_t begin = 0;
  std::size_t end = 0;

  ALLFOLD_HD constexpr std::size_t size() const noexcept { return end - begin; }
  /// What of it lies before `limit`.
  ALLFOLD_HD constexpr Range clip(std::size_t limit) const noexcept {
    return {begin < limit ? begin : limit, end < limit ? end : limit};
  }
};

/// Part `index` of `parts` nearly equal ones, which begin at multiples of `grain` elements after the range's begin
/// (the tail may be short, or empty). Every rank computes the same parts.
ALLFOLD_HD constexpr Range part_of(Range whole, int parts, int index, std::size_t grain) noexcept {
  const std::size_t grains = (whole.size() + grain - 1) / grain;
  const std::size_t n = static_cast<std::size_t>(parts);
  const std::size_t i = static_cast<std::size_t>(index);
  const std::size_t each = grains / n;
  const std::size_t longer = grains % n;
  const std::size_t first = i * each + (i < longer ? i : longer);
  const std::size_t last = first + each + (i < longer ? 1 : 0);
  const auto at = [&](std::size_t g) { return g * grain < whole.size() ? whole.begin + g * grain : whole.end; };
  return {at(first), at(last)};
}

/// How many elements of T a part is a multiple of, so that ranks and blocks share no cache line, where sizeof(T)
/// divides one.
template <class T>
ALLFOLD_HD constexpr std::size_t line_grain() noexcept {
  return sizeof(T) >= cache_line_bytes ? 1 : cache_line_bytes / sizeof(T);
}

}  // namespace allfold
