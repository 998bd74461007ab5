// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <allfold/base/atomics.hpp>
#include <allfold/base/config.hpp>
#include <allfold/base/error.hpp>
#include <allfold/memory/window.hpp>

namespace allfold {

/// Why a communicator ended: the first failure, agreed on by all ranks. It packs into the abort word.
struct Failure {
  ErrorCode code = ErrorCode::timeout;
  std::uint8_t source = no_rank;  ///< the rank to blame
  std::uint8_t by = no_rank;      ///< the rank that noticed
  std::uint8_t channel = 0;
  bool group = false;         ///< noticed in a barrier of a subset
  bool source_group = false;  ///< the rank to blame is in one
  bool departed = false;      ///< the peer left in order: it destroyed its communicator
  std::uint32_t sequence = 0;

  static constexpr std::uint8_t no_rank = 0xff;

  ALLFOLD_HD constexpr std::uint64_t pack() const noexcept {
    return static_cast<std::uint64_t>(code) | static_cast<std::uint64_t>(source_group) << 7 |
           static_cast<std::uint64_t>(source) << 8 | static_cast<std::uint64_t>(by) << 16 |
           static_cast<std::uint64_t>(channel & 0x3f) << 24 | static_cast<std::uint64_t>(group) << 30 |
           static_cast<std::uint64_t>(departed) << 31 | static_cast<std::uint64_t>(sequence) << 32;
  }

  ALLFOLD_HD static constexpr Failure unpack(std::uint64_t word) noexcept {
    return {.code = static_cast<ErrorCode>(word & 0x7f),
            .source = static_cast<std::uint8_t>(word >> 8),
            .by = static_cast<std::uint8_t>(word >> 16),
            .channel = static_cast<std::uint8_t>(word >> 24 & 0x3f),
            .group = (word >> 30 & 1) != 0,
            .source_group = (word >> 7 & 1) != 0,
            .departed = (word >> 31 & 1) != 0,
            .sequence = static_cast<std::uint32_t>(word >> 32)};
  }
};

/// What all channels of a communicator share. Lies in rank 0's part, which outlives rank 0: memory stays mapped.
struct alignas(cache_line_bytes) ControlBlock {
  std::uint64_t abort;                     ///< 0, or the packed Failure that poisoned the communicator
  RankMask departed;                       ///< ranks that destroyed their communicator
  std::uint64_t verify[max_window_ranks];  ///< [rank] written by each rank at rendezvous and read by all

  /// Takes the failure down as the communicator's, unless an earlier one stands; returns the one that stands.
  Failure give_up(const Failure& failure) noexcept {
    compare_exchange(&abort, std::uint64_t{0}, failure.pack());
    return Failure::unpack(load_acquire(&abort));
  }
};

}  // namespace allfold
