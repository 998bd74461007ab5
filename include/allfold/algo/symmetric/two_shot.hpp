// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/symmetric/call.hpp>
#include <allfold/algo/symmetric/meet.hpp>

namespace allfold {

/// Every rank folds its own shard of all inputs, and hands the result to all: two motions of the data,
/// 2 (P - 1) / P * bytes per link. Results are pushed where peers' outputs are mapped, pulled after a third meeting
/// where they are published, and pass through staging memory where peers cannot reach them.
///
/// In place is safe: nobody but its owner reads a shard of the inputs, and nobody but he writes it.
ALLFOLD_ANY_SIDE
template <executor E, class Reduction>
ALLFOLD_HD bool two_shot(E& e, const AllReduceCall<Reduction>& call) {
  using T = typename Reduction::value_type;
  const int me = e.rank();
  const RankMask everyone = all_ranks(e.world_size());
  const bool stage_in = call.inputs.reach == Reach::own;
  const bool stage_out = call.outputs.reach == Reach::own;
  const std::size_t stage_bytes = e.staging_bytes() / 2 / cache_line_bytes * cache_line_bytes;
  const std::size_t limit = stage_in || stage_out ? stage_bytes / sizeof(T) : call.count;

  return in_rounds(call.count, limit, [&](std::size_t begin, std::size_t end) {
    e.begin_round();
    const auto block_part = [&](int shard) {
      return part_of(part_of({begin, end}, e.world_size(), shard, line_grain<T>()), e.blocks(), e.block(),
                     line_grain<T>());
    };
    const auto for_peers = [&](auto&& each) {
      for (int step = 1; step < e.world_size(); ++step) {
        const int peer = me + step < e.world_size() ? me + step : me + step - e.world_size();
        if (!each(peer, block_part(peer))) return false;
      }
      return true;
    };

    if (stage_in) {
      for_peers([&](int, Range part) {
        e.copy(slice<T>(e.staging(0), part.begin - begin).at[me], call.in + part.begin, part.size() * sizeof(T));
        return true;
      });
    }
    if (!meet(e, Leg::start, everyone)) return false;

    const Range mine = block_part(me);
    const Buffer published = e.outputs(call.outputs);
    Buffer inputs = stage_in ? slice<T>(e.staging(0), mine.begin - begin) : slice<T>(e.inputs(call.inputs), mine.begin);
    Buffer outputs = stage_out ? slice<T>(e.staging(stage_bytes), mine.begin - begin) : slice<T>(published, mine.begin);
    inputs.at[me] = const_cast<T*>(call.in + mine.begin);
    outputs.at[me] = call.out + mine.begin;
    const bool push = stage_out || call.outputs.reach == Reach::mapped;
    const bool folded = e.fold(FullFold<Reduction>{call.reduction, e.world_size()}, inputs,
                               Operands::ascending(everyone), outputs, push ? everyone : only_rank(me), mine.size());
    if (!e.sync(folded)) return false;

    if (!push) {
      if (!meet(e, Leg::folded, everyone)) return false;
      const bool fetched = for_peers([&](int peer, Range part) {
        return e.fetch(call.out + part.begin, peer, slice<T>(published, part.begin).at[peer], part.size() * sizeof(T),
                       published.reach);
      });
      if (!e.sync(fetched)) return false;
    }
    if (!meet(e, Leg::done, everyone)) return false;
    if (stage_out) {
      for_peers([&](int, Range part) {
        e.copy(call.out + part.begin, slice<T>(e.staging(stage_bytes), part.begin - begin).at[me],
               part.size() * sizeof(T));
        return true;
      });
    }
    return true;
  });
}

}  // namespace allfold
