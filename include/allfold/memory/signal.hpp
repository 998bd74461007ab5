// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <allfold/base/config.hpp>

namespace allfold {

/// A signal is one 64-bit word: the epoch in the high half, the tag of the sender's call in the low one. Epochs of a
/// channel only grow, so a pad is never cleared; the tag turns ranks that call different things into an error.
ALLFOLD_HD constexpr std::uint64_t make_signal(std::uint32_t epoch, std::uint32_t tag) noexcept {
  return static_cast<std::uint64_t>(epoch) << 32 | tag;
}

/// The algorithms that push in chunks fold so many chunks behind what they push, and turn through so many slots, a
/// power of two: the slot of a round is its epoch's. A rank pushes push_lag + 1 chunks of a call before it has heard of
/// its peer, which may not have folded the last push_lag + 1 chunks of the call before.
inline constexpr int push_lag = 1;
inline constexpr int push_slots = 8;
static_assert(push_slots >= 3 * push_lag + 2 && (push_slots & (push_slots - 1)) == 0);

enum class Arrival : std::uint8_t { not_yet, here, mismatched };

/// A peer is at most so many epochs ahead of a word that a rank waits for: two sets of packets take turns, and
/// two_shot_push runs push_lag rounds ahead of its waits on both sides.
inline constexpr std::int32_t most_epochs_ahead = 8;
static_assert(2 * push_lag + 1 < most_epochs_ahead);

/// For words that are written in every call, of a peer that may be at any round of the same one.
inline constexpr std::int32_t any_epochs_ahead = 0x7fffffff;

/// What `seen` in a pad means to a rank that waits for `expected`. Epochs are compared by their difference, so that
/// they may wrap around, and a word that was not written for half of all epochs does not seem to be ahead. A peer ahead
/// of us has passed this meeting, which it cannot unless our tags agreed. `most_ahead`: 0 for words that no peer writes
/// again before they were read, and that may be older still.
ALLFOLD_HD constexpr Arrival arrival(std::uint64_t seen, std::uint64_t expected,
                                     std::int32_t most_ahead = most_epochs_ahead) noexcept {
  if (seen == expected) return Arrival::here;
  const auto ahead =
      static_cast<std::int32_t>(static_cast<std::uint32_t>(seen >> 32) - static_cast<std::uint32_t>(expected >> 32));
  if (ahead == 0) return Arrival::mismatched;
  return ahead > 0 && ahead <= most_ahead ? Arrival::here : Arrival::not_yet;
}

/// The meetings of one collective: each has signals of its own, so that a fast rank cannot be taken for a slow one.
enum class Leg : std::uint8_t {
  start,   ///< inputs may be read
  folded,  ///< partial results may be read
  done,    ///< nobody reads my memory any more
  group,   ///< barriers among a subset of ranks
};
inline constexpr int leg_count = 4;

/// The rounds of packets of one collective.
enum class Stage : std::uint8_t { inputs, results };
inline constexpr int stage_count = 2;

}  // namespace allfold
