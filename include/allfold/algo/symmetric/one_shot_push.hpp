// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/symmetric/call.hpp>
#include <allfold/algo/symmetric/meet.hpp>

namespace allfold {

ALLFOLD_ANY_SIDE_BEGIN

/// Every rank pushes its input, in chunks, into the inboxes of all peers, and folds its own copies push_lag chunks
/// behind: one motion of the data, (P - 1) * bytes per link, by stores alone. Between two ranks that is as little as
/// two shots move, at half their latency. No meeting at the end, for nobody reads or writes a peer's buffers. Any
/// buffers.
///
/// Slots: as in two_shot_push. In place is safe: a chunk of the output is written after that of the input was pushed.
ALLFOLD_ANY_SIDE
template <executor E, class Reduction>
ALLFOLD_HD bool one_shot_push(E& e, const AllReduceCall<Reduction>& call) {
  using T = typename Reduction::value_type;
  const int me = e.rank();
  const int ranks = e.world_size();
  const RankMask everyone = all_ranks(ranks);
  const std::size_t chunk_elems = e.inbox_slot_bytes() / sizeof(T);
  const Range mine = part_of({0, call.count}, e.blocks(), e.block(), line_grain<T>());
  const Range longest = part_of({0, call.count}, e.blocks(), 0, line_grain<T>());
  const auto chunk = [&](int index) {
    const std::size_t begin = mine.begin + static_cast<std::size_t>(index) * chunk_elems;
    return Range{begin, begin + chunk_elems}.clip(mine.end);
  };

  const int chunks = longest.size() == 0 ? 1 : static_cast<int>((longest.size() + chunk_elems - 1) / chunk_elems);
  bool ok = true;
  for (int round = 0; round < chunks + push_lag; ++round) {
    e.begin_round();
    if (round < chunks) {
      const Range part = chunk(round);
      for (int n = 0; n < ranks - 1; ++n) {
        const int peer = nth_peer(me, ranks, e.block(), n);
        e.copy(e.inbox(peer, push_slot(e.epoch(), 0, ranks) + me), call.in + part.begin, part.size() * sizeof(T));
      }
      if (!announce(e, Leg::start, everyone, ok)) return false;
    }
    if (round < push_lag) continue;
    ok = ok && await_alone(e, Leg::start, everyone, push_lag);
    if (!ok) continue;
    const Range part = chunk(round - push_lag);
    Buffer inputs;
    for (int r = 0; r < max_window_ranks; ++r) {
      if (r >= ranks) break;
      inputs.at[r] = e.inbox(me, push_slot(e.epoch(), push_lag, ranks) + r);
    }
    e.fold(FullFold<Reduction>{call.reduction, ranks}, with_part(inputs, me, const_cast<T*>(call.in + part.begin)),
           Operands::ascending(everyone), own_buffer(me, call.out + part.begin), only_rank(me), part.size());
  }
  return e.sync(ok);
}

ALLFOLD_ANY_SIDE_END

}  // namespace allfold
