// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/halving.hpp>
#include <allfold/algo/message/parts.hpp>
#include <allfold/policy/message_algorithm.hpp>

/// Reduce-scatter: each rank gets its part of the fold of all inputs. `Parts` are in elements, and may be of any size.
/// `out` may be this rank's part of `in`, and is apart from it otherwise.

namespace allfold::message {

/// Each rank sends every other its part of the input, and folds what it gets in ascending rank order into `out`. A
/// step.
template <endpoint E>
Task<bool> exchange_and_fold(E& e, const MessageReduction r, const void* in, void* out, Parts parts, int step) {
  const int ranks = e.world_size();
  const Parts bytes = parts.times(r.value_bytes);
  const std::size_t each = bytes.size_of(e.rank());
  auto arriving = e.scratch(static_cast<std::size_t>(ranks - 1) * each);
  const BlockArray<const void*> operands(e.frames(), static_cast<std::size_t>(ranks));
  operands[static_cast<std::size_t>(e.rank())] = at_byte(in, bytes.of(e.rank()).begin);

  InFlight<E> flight;
  for (int i = 1; i < ranks; ++i) {
    const int source = ring_rank(e.rank(), -i, ranks);
    const int target = ring_rank(e.rank(), i, ranks);
    const std::size_t at = static_cast<std::size_t>(i - 1) * each;
    operands[static_cast<std::size_t>(source)] = at_byte(arriving.data(), at);
    if (!co_await flight.room(2)) co_return false;
    flight.add(receive_range(e, source, step, arriving.data(), {at, at + each}));
    flight.add(send_range(e, target, step, in, bytes.of(target)));
  }
  if (!co_await flight.all()) co_return false;
  co_return co_await e.fold(r, FoldKind::values_to_value, operands.span(), out, parts.size_of(e.rank()));
}

/// Every second piece of the parts, from piece `first` on.
template <endpoint E>
Task<bool> reduce_scatter_pairwise_lane(E& e, const MessageReduction r, const void* in, void* out, Parts parts,
                                        int first, int pieces) {
  for (int piece = first; piece < pieces; piece += 2) {
    const Parts part = parts.piece(piece, pieces);
    void* const to = at_byte(out, (part.of(e.rank()).begin - parts.of(e.rank()).begin) * r.value_bytes);
    if (!co_await exchange_and_fold(e, r, in, to, part, phase(0) + piece)) co_return false;
  }
  co_return true;
}

/// The even and the odd pieces side by side.
template <endpoint E>
Task<bool> reduce_scatter_pairwise_pieces(E& e, const MessageReduction r, const void* in, void* out, Parts parts,
                                          int pieces) {
  co_return co_await SideBySide(reduce_scatter_pairwise_lane(e, r, in, out, parts, 0, pieces),
                                reduce_scatter_pairwise_lane(e, r, in, out, parts, 1, pieces));
}

/// Reproducible. Parts of the input go straight to their owners, who fold them: (P - 1) / P * bytes per rank. Of long
/// parts the even and the odd pieces go side by side. Uses the steps of phase 0.
template <endpoint E>
Task<bool> reduce_scatter_pairwise(E& e, const MessageReduction& r, const void* in, void* out, Parts parts) {
  std::size_t longest = 0;
  for (int rank = 0; rank < e.world_size(); ++rank) longest = std::max(longest, parts.size_of(rank));
  const int pieces = pieces_of(longest * r.value_bytes, piece_bytes_of(e));
  return pieces == 1 ? exchange_and_fold(e, r, in, out, parts, phase(0))
                     : reduce_scatter_pairwise_pieces(e, r, in, out, parts, pieces);
}

/// Fast. Recursive halving: log2 P steps and about (P - 1) / P * bytes per rank; where P is no power of two, twice the
/// bytes on some. Part r of the input is put where the halves leave it: the ranks' order is kept at no price.
template <endpoint E>
Task<bool> reduce_scatter_recursive_halving(E& e, const MessageReduction r, const void* in, void* out, Parts parts) {
  const Core core(e.world_size());
  const auto places = static_cast<std::size_t>(core.size);
  const BlockArray<std::size_t> sizes(e.frames(), places);
  const BlockArray<std::size_t> begins(e.frames(), places);
  std::size_t total = 0;
  for (int place = 0; place < core.size; ++place) {
    const auto at = static_cast<std::size_t>(place);
    const int rank = core.rank_of(halved_place(place, core.size));
    sizes[at] = parts.size_of(rank) + (core.stands_for_two(rank) ? parts.size_of(rank - 1) : 0);
    begins[at] = total;
    total += sizes[at];
  }

  auto work = e.scratch(total * r.partial_bytes);
  for (int place = 0; place < core.size; ++place) {
    const int rank = core.rank_of(halved_place(place, core.size));
    void* to = at_byte(work.data(), begins[static_cast<std::size_t>(place)] * r.partial_bytes);
    for (int of = core.stands_for_two(rank) ? rank - 1 : rank; of <= rank; ++of) {
      const void* const from = at_byte(in, parts.of(of).begin * r.value_bytes);
      const std::size_t n = parts.size_of(of);
      if (!co_await fold_one(e, r, FoldKind::values_to_partial, from, to, n)) co_return false;
      to = at_byte(to, n * r.partial_bytes);
    }
  }

  const std::size_t own = parts.size_of(e.rank());
  if (!co_await fold_spared(e, core, r, work.data(), total, phase(0))) co_return false;
  if (core.is_spared(e.rank())) {
    co_return co_await reward_spared(e, core, nullptr, out, {}, {0, own * r.value_bytes}, phase(2));
  }
  if (!co_await fold_by_halves(e, core, r, work.data(), Parts::listed(sizes.data(), begins.data()), phase(1))) {
    co_return false;
  }
  const int place = halved_place(core.index_of(e.rank()), core.size);
  const void* folded = at_byte(work.data(), begins[static_cast<std::size_t>(place)] * r.partial_bytes);
  if (core.stands_for_two(e.rank())) {
    const std::size_t n = parts.size_of(e.rank() - 1);
    auto reward = e.scratch(n * r.value_bytes);
    if (!co_await fold_one(e, r, FoldKind::partials_to_value, folded, reward.data(), n)) co_return false;
    if (!co_await reward_spared(e, core, reward.data(), nullptr, {0, n * r.value_bytes}, {}, phase(2))) {
      co_return false;
    }
    folded = at_byte(folded, n * r.partial_bytes);
  }
  co_return co_await fold_one(e, r, FoldKind::partials_to_value, folded, out, own);
}

/// The algorithm of that name.
template <endpoint E>
Task<bool> reduce_scatter(E& e, ReduceScatterMotion motion, const MessageReduction& r, const void* in, void* out,
                          Parts parts) {
  return motion == ReduceScatterMotion::recursive_halving ? reduce_scatter_recursive_halving(e, r, in, out, parts)
                                                          : reduce_scatter_pairwise(e, r, in, out, parts);
}

}  // namespace allfold::message
