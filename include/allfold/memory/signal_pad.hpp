// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <allfold/base/config.hpp>
#include <allfold/memory/window.hpp>

namespace allfold {

/// The 32-bit words of one rank's signal pad: each symmetric allocation of GPU ranks has a pad of its own on every
/// rank, for kernels of the caller's. All words are zero at first, and zero again after each put_signal with its
/// wait_signal.
inline constexpr std::size_t signal_pad_words = 2048;

/// put_signal, wait_signal and barrier (launch/device_signals.cuh) cut a pad into so many slots, of a word for each
/// rank that may signal. A grid that meets block by block takes a slot for each block.
inline constexpr int signal_slots = static_cast<int>(signal_pad_words) / max_window_ranks;

/// The word of a pad by which rank `from` signals in `slot`.
ALLFOLD_HD constexpr int signal_word(int slot, int from) noexcept { return slot * max_window_ranks + from; }

/// What a rank's part of an allocation has besides the elements. Peers write the pad; the tables are the rank's own.
struct SignalPart {
  std::uint32_t pad[signal_pad_words];
  void* peers[max_window_ranks];          ///< [rank] where this rank's GPU reaches that rank's elements
  std::uint32_t* pads[max_window_ranks];  ///< likewise the pads
};

/// How far behind the elements it begins.
constexpr std::size_t signal_part_offset(std::size_t bytes) noexcept { return whole_device_lines(bytes); }

}  // namespace allfold
