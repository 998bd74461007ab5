// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/algo/chunk.hpp>

namespace allfold {

/// How a buffer is divided among ranks: in equal parts one after another, in nearly equal parts of a whole, or as two
/// lists say. A plain value; lists must outlive the call.
class Parts {
 public:
  /// Part i is [i * each, (i + 1) * each).
  static constexpr Parts equal(std::size_t each) noexcept { return Parts(Kind::equal, each, 0, 1); }

  /// `total` in as many nearly equal parts as there are ranks, which begin at multiples of `grain`.
  static constexpr Parts even(std::size_t total, int world_size, std::size_t grain) noexcept {
    return Parts(Kind::even, total, world_size, grain);
  }

  /// Part i is [begins[i], begins[i] + sizes[i]).
  static constexpr Parts listed(const std::size_t* sizes, const std::size_t* begins) noexcept {
    Parts parts(Kind::listed, 0, 0, 1);
    parts.sizes_ = sizes;
    parts.begins_ = begins;
    return parts;
  }

  constexpr Range of(int index) const noexcept {
    const Range whole = in_units(index);
    const Range part = pieces_ == 1 ? whole : part_of(whole, pieces_, piece_, piece_grain);
    return {part.begin * unit_, part.end * unit_};
  }
  /// Of each part piece `index` of `count` nearly equal ones.
  constexpr Parts piece(int index, int count) const noexcept {
    Parts parts = *this;
    parts.piece_ = index;
    parts.pieces_ = count;
    return parts;
  }

  constexpr std::size_t size_of(int index) const noexcept { return of(index).size(); }

  /// The same parts, counted in units so many times smaller: bytes where these are elements.
  constexpr Parts times(std::size_t unit) const noexcept {
    Parts parts = *this;
    parts.unit_ *= unit;
    return parts;
  }

 private:
  enum class Kind : unsigned char { equal, even, listed };

  static constexpr std::size_t piece_grain = 16;

  constexpr Parts(Kind kind, std::size_t size, int count, std::size_t grain) noexcept
      : kind_(kind), size_(size), count_(count), grain_(grain) {}

  constexpr Range in_units(int index) const noexcept {
    const auto i = static_cast<std::size_t>(index);
    switch (kind_) {
      case Kind::equal: return {i * size_, (i + 1) * size_};
      case Kind::even: return part_of({0, size_}, count_, index, grain_);
      case Kind::listed: return {begins_[i], begins_[i] + sizes_[i]};
    }
    return {};
  }

  Kind kind_;
  std::size_t size_;
  int count_;
  std::size_t grain_;
  std::size_t unit_ = 1;
  int piece_ = 0;
  int pieces_ = 1;
  const std::size_t* sizes_ = nullptr;
  const std::size_t* begins_ = nullptr;
};

/// Longer parts are cut into pieces, of which two are under way at a time: some travel while others are folded, and
/// nobody sends more than its receiver comes to read, which TCP would take for a slow wire.
/// Source: docs/decisions/0012-ucx-constants.md.
inline constexpr std::size_t piece_bytes = std::size_t{128} << 10;
constexpr int pieces_of(std::size_t part_bytes, std::size_t piece = piece_bytes) noexcept {
  const std::size_t pieces = part_bytes / piece + (part_bytes % piece != 0 ? 1 : 0);
  return pieces < 1 ? 1 : pieces < 4096 ? static_cast<int>(pieces) : 4096;
}

/// Shards of a vector that is reduced begin at multiples of so many elements: a cache line's worth of most types.
inline constexpr std::size_t reduction_grain = 16;

}  // namespace allfold
