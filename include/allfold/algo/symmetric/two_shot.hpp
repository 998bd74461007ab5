// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/symmetric/call.hpp>
#include <allfold/algo/symmetric/meet.hpp>

namespace allfold {

ALLFOLD_ANY_SIDE_BEGIN

/// Every rank folds its own shard of all inputs and pushes the result to all outputs: two motions of the data,
/// 2 (P - 1) / P * bytes per link, two meetings. What peers cannot reach passes through staging memory, in rounds.
///
/// In place is safe: nobody but its owner reads a shard of the inputs once it is written.
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

  return in_rounds(call.count, limit, [&](Round round) {
    e.begin_round();
    const auto block_part = [&](int shard) {
      const Range whole = part_of(round.grid, e.world_size(), shard, line_grain<T>());
      return part_of(whole, e.blocks(), e.block(), line_grain<T>()).clip(round.end);
    };
    const auto staged = [&](std::size_t offset, Range part) {
      return slice<T>(e.staging(offset), part.begin - round.grid.begin);
    };

    for (int peer = 0; stage_in && peer < e.world_size(); ++peer) {
      const Range part = block_part(peer);
      if (peer != me) e.copy(staged(0, part).at[me], call.in + part.begin, part.size() * sizeof(T));
    }
    if (!meet(e, Leg::start, everyone)) return false;

    const Range mine = block_part(me);
    const Buffer inputs = with_part(stage_in ? staged(0, mine) : slice<T>(call.inputs, mine.begin), me,
                                    const_cast<T*>(call.in + mine.begin));
    Buffer outputs = with_part(stage_out ? staged(stage_bytes, mine) : slice<T>(call.outputs, mine.begin), me,
                               call.out + mine.begin);
    outputs.reach = call.outputs.reach;  // of the own part; the peers' may be staging memory
    e.fold(FullFold<Reduction>{call.reduction, e.world_size()}, inputs, Operands::ascending(everyone), outputs,
           everyone, mine.size());
    if (!meet(e, Leg::done, everyone)) return false;

    for (int peer = 0; stage_out && peer < e.world_size(); ++peer) {
      const Range part = block_part(peer);
      if (peer != me) e.copy(call.out + part.begin, staged(stage_bytes, part).at[me], part.size() * sizeof(T));
    }
    return true;
  });
}

ALLFOLD_ANY_SIDE_END

}  // namespace allfold
