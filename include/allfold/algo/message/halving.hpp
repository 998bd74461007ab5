// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/parts.hpp>

/// What the algorithms have in common that pair ranks by the bits of their number. Operands are combined in ascending
/// rank order throughout, so that an operator need not commute, and both ranks of a pair compute the same bits.
///
/// Source: Thakur, Rabenseifner, Gropp, Optimization of collective communication operations in MPICH, 2005.

namespace allfold::message {

/// A power of two of participants that stand for all ranks: of the first 2 * extra ranks each odd one stands for itself
/// and the even one below it, which so are neighbours in the order of ranks.
struct Core {
  int size;
  int extra;

  explicit Core(int ranks) noexcept
      : size(static_cast<int>(std::bit_floor(static_cast<unsigned>(ranks)))), extra(ranks - size) {}

  /// Somebody stands for this rank.
  bool is_spared(int rank) const noexcept { return rank < 2 * extra && rank % 2 == 0; }
  /// It stands for the rank below it.
  bool stands_for_two(int rank) const noexcept { return rank < 2 * extra && rank % 2 == 1; }
  int index_of(int rank) const noexcept { return rank < 2 * extra ? rank / 2 : rank - extra; }
  int rank_of(int index) const noexcept { return index < extra ? 2 * index + 1 : index + extra; }
};

/// Spared ranks hand their `n` partials to those that stand for them, which fold them into their own. One step.
template <endpoint E>
Task<bool> fold_spared(E& e, Core core, const MessageReduction r, void* partials, std::size_t n, int step) {
  const std::size_t bytes = n * r.partial_bytes;
  if (core.is_spared(e.rank())) {
    auto departure = send_range(e, e.rank() + 1, step, partials, {0, bytes});
    co_return co_await ended(departure);
  }
  if (!core.stands_for_two(e.rank())) co_return true;
  auto lower = e.scratch(bytes);
  auto arrival = receive_range(e, e.rank() - 1, step, lower.data(), {0, bytes});
  if (!co_await ended(arrival)) co_return false;
  co_return co_await fold_pair(e, r, FoldKind::partials_to_partial, lower.data(), partials, partials, n);
}

/// Spared ranks get their result. `in`: what the rank that stands for this one sends. One step.
template <endpoint E>
Task<bool> reward_spared(E& e, Core core, const void* in, void* out, Range leaving, Range coming, int step) {
  if (core.is_spared(e.rank())) {
    auto arrival = receive_range(e, e.rank() + 1, step, out, coming);
    co_return co_await ended(arrival);
  }
  if (!core.stands_for_two(e.rank())) co_return true;
  auto departure = send_range(e, e.rank() - 1, step, in, leaving);
  co_return co_await ended(departure);
}

/// Where a participant's part lies after fold_by_halves: its index with the bits reversed.
constexpr int halved_place(int index, int size) noexcept {
  int place = 0;
  for (int bit = 1; bit < size; bit *= 2) place = 2 * place + ((index & bit) != 0 ? 1 : 0);
  return place;
}

/// Recursive halving: participants at distance 1, 2, 4, .. exchange halves of what they still work on, and fold the
/// half they keep. So neighbours are folded first, which keeps the order. `parts`: of the partials, in elements, one
/// after another, one for each participant; afterwards each holds the whole fold of the part at its halved_place. log2
/// steps.
template <endpoint E>
Task<bool> fold_by_halves(E& e, Core core, const MessageReduction r, void* partials, Parts parts, int first_step) {
  const int index = core.index_of(e.rank());
  const auto span = [&](int first, int last) {
    return Range{parts.of(first).begin * r.partial_bytes, parts.of(last - 1).end * r.partial_bytes};
  };
  auto arriving = e.scratch(core.size == 1 ? 0 : span(0, core.size).size());
  int first = 0;
  int last = core.size;
  for (int step = first_step, distance = 1; distance < core.size; ++step, distance *= 2) {
    const int middle = (first + last) / 2;
    const int partner = core.rank_of(index ^ distance);
    const bool upper = (index & distance) != 0;
    const Range leaving = upper ? span(first, middle) : span(middle, last);
    (upper ? first : last) = middle;
    const Range kept = span(first, last);

    auto arrival = receive_range(e, partner, step, arriving.data(), {0, kept.size()});
    auto departure = send_range(e, partner, step, partials, leaving);
    if (!co_await ended(arrival, departure)) co_return false;
    void* const mine = at_byte(partials, kept.begin);
    const void* const theirs = arriving.data();
    if (!co_await fold_pair(e, r, FoldKind::partials_to_partial, upper ? theirs : mine, upper ? mine : theirs, mine,
                            kept.size() / r.partial_bytes)) {
      co_return false;
    }
  }
  co_return true;
}

}  // namespace allfold::message
