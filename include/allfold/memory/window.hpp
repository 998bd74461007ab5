// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <allfold/base/config.hpp>

namespace allfold {

/// A set of ranks, one bit each.
using RankMask = std::uint32_t;

/// Every rank of a world of `world_size`.
ALLFOLD_HD constexpr RankMask all_ranks(int world_size) noexcept {
  return static_cast<RankMask>((std::uint64_t{1} << world_size) - 1);
}

ALLFOLD_HD constexpr RankMask only_rank(int rank) noexcept { return RankMask{1} << rank; }

ALLFOLD_HD constexpr bool has_rank(RankMask mask, int rank) noexcept { return (mask >> rank & 1U) != 0; }

/// Regions of a GPU's shared memory begin at multiples of so many bytes, and sizes of them are.
inline constexpr std::size_t device_line_bytes = 512;

/// `bytes`, or the least number of whole lines that holds them.
constexpr std::size_t whole_device_lines(std::size_t bytes) noexcept {
  return (bytes + device_line_bytes - 1) / device_line_bytes * device_line_bytes;
}

/// How a rank gets at a buffer of its peers.
enum class Reach : std::uint8_t {
  own,     ///< not at all: it is private memory, and only the rank's own part is used
  mapped,  ///< by loads and stores: it is symmetric memory
};

/// One buffer of a collective, on every rank. Trivially copyable: it is passed to kernels by value.
struct Buffer {
  void* at[max_window_ranks] = {};  ///< [rank] where this process sees that rank's part
  Reach reach = Reach::own;
};

/// All ranks' mapped view of one symmetric allocation.
struct Window {
  void* at[max_window_ranks] = {};  ///< [rank] where this process sees that rank's part
  std::size_t bytes = 0;            ///< of each part
  std::uint64_t serial = 0;         ///< the same on every rank, and no other window's

  /// Over the parts that ranks have in memory with `data()`: [rank].
  template <class Part>
  static Window over(const Part (&part)[max_window_ranks], std::size_t bytes, std::uint64_t serial,
                     int world_size) noexcept {
    Window window;
    for (int r = 0; r < world_size; ++r) window.at[r] = part[r]->data();
    window.bytes = bytes;
    window.serial = serial;
    return window;
  }

  /// The buffer that begins `offset` bytes into every rank's part.
  Buffer buffer(std::size_t offset, int world_size) const noexcept {
    Buffer result;
    for (int r = 0; r < world_size; ++r) result.at[r] = static_cast<char*>(at[r]) + offset;
    result.reach = Reach::mapped;
    return result;
  }
};

/// Whether every rank's part of a window, or of a buffer that is mapped, begins at a multiple of 16 bytes. The same on
/// every rank, for a mapping keeps the place in a page.
inline bool start_at_vectors(void* const (&parts)[max_window_ranks], int world_size) noexcept {
  std::uintptr_t address = 0;
  for (int r = 0; r < world_size; ++r) address |= reinterpret_cast<std::uintptr_t>(parts[r]);
  return (address & 15U) == 0;
}

}  // namespace allfold
