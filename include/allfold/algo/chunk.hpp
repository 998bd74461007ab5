// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <allfold/base/config.hpp>
#include <allfold/memory/signal.hpp>

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
  /// The range so many elements further on.
  ALLFOLD_HD constexpr Range moved_by(std::size_t elems) const noexcept { return {begin + elems, end + elems}; }
};

namespace detail {

template <class Word>
ALLFOLD_HD constexpr Range part_in_words(Range whole, Word parts, Word index, Word grain) noexcept {
  const Word size = static_cast<Word>(whole.size());
  const Word grains = (size + grain - 1) / grain;
  const Word each = grains / parts;
  const Word longer = grains - each * parts;
  const Word first = index * each + (index < longer ? index : longer);
  const Word last = first + each + (index < longer ? 1 : 0);
  const auto at = [&](Word g) { return g < grains ? whole.begin + g * grain : whole.end; };
  return {at(first), at(last)};
}

}  // namespace detail

/// Part `index` of `parts` nearly equal ones, which begin at multiples of `grain` elements after the range's begin
/// (the tail may be short, or empty). Every rank computes the same parts.
ALLFOLD_HD constexpr Range part_of(Range whole, int parts, int index, std::size_t grain) noexcept {
  // Most ranges fit 32 bits, and GPUs divide those several times as fast.
  if (whole.size() < (std::size_t{1} << 31) && grain < (std::size_t{1} << 31)) {
    return detail::part_in_words<std::uint32_t>(whole, static_cast<std::uint32_t>(parts),
                                                static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(grain));
  }
  return detail::part_in_words<std::size_t>(whole, static_cast<std::size_t>(parts), static_cast<std::size_t>(index),
                                            grain);
}

/// The length of each of `parts` shares that together hold `n` elements: a multiple of `grain`. The last shares may be
/// cut short, or empty.
ALLFOLD_HD constexpr std::size_t share_of(std::size_t n, int parts, std::size_t grain) noexcept {
  const std::size_t unit = static_cast<std::size_t>(parts) * grain;
  if (n < (std::size_t{1} << 31) && unit < (std::size_t{1} << 31)) {
    const auto words = static_cast<std::uint32_t>(unit);
    return (static_cast<std::uint32_t>(n) + words - 1) / words * grain;
  }
  return (n + unit - 1) / unit * grain;
}

/// The first of 2 * parts slots of an inbox that belong to the round so many before that of `epoch`.
ALLFOLD_HD constexpr int push_slot(std::uint32_t epoch, int behind, int parts) noexcept {
  return static_cast<int>((epoch - static_cast<std::uint32_t>(behind)) % push_slots) * 2 * parts;
}

/// How many elements of a part two_shot_push pushes at a time, where a slot holds so many. A part that just fits a slot
/// goes in two halves, so that its two motions overlap; not if it is so short that another signal takes longer.
/// Source: docs/decisions/0007-device-constants.md.
ALLFOLD_HD constexpr std::size_t push_chunk(std::size_t part, std::size_t slot, std::size_t grain) noexcept {
  return part <= slot && part > slot / 2 ? share_of(part, 2, grain) : slot;
}

/// The n-th of the other ranks, in the order in which `block` of rank `me` sends to them. Ranks and blocks begin with
/// different ones, for a rank that all send to at once holds them up.
ALLFOLD_HD constexpr int nth_peer(int me, int ranks, int block, int n) noexcept {
  const int peer = me + 1 + (n + block) % (ranks - 1);
  return peer < ranks ? peer : peer - ranks;
}

/// How many elements of T a part is a multiple of, so that ranks and blocks share no cache line, where sizeof(T)
/// divides one.
template <class T>
ALLFOLD_HD constexpr std::size_t line_grain() noexcept {
  return sizeof(T) >= cache_line_bytes ? 1 : cache_line_bytes / sizeof(T);
}

}  // namespace allfold
