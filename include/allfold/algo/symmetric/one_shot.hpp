// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/symmetric/call.hpp>
#include <allfold/algo/symmetric/meet.hpp>

namespace allfold {

ALLFOLD_ANY_SIDE_BEGIN

/// Every rank reads every input and folds all of it: one motion of the data, (P - 1) * bytes per link, two meetings.
/// An input that peers cannot reach, or that the output overwrites, is read from staging memory.
ALLFOLD_ANY_SIDE
template <executor E, class Reduction>
ALLFOLD_HD bool one_shot(E& e, const AllReduceCall<Reduction>& call) {
  using T = typename Reduction::value_type;
  const RankMask everyone = all_ranks(e.world_size());
  const bool staged = call.inputs.reach != Reach::mapped || call.in == call.out;
  const std::size_t limit = staged ? e.staging_bytes() / sizeof(T) : call.count;

  return in_rounds(call.count, limit, [&](Round round) {
    e.begin_round();
    const Range mine = part_of(round.grid, e.blocks(), e.block(), line_grain<T>()).clip(round.end);
    const Buffer inputs =
        staged ? slice<T>(e.staging(0), mine.begin - round.grid.begin) : slice<T>(call.inputs, mine.begin);
    if (staged) e.copy(inputs.at[e.rank()], call.in + mine.begin, mine.size() * sizeof(T));
    if (!meet(e, Leg::start, everyone)) return false;
    e.fold(FullFold<Reduction>{call.reduction, e.world_size()}, inputs, Operands::ascending(everyone),
           own_buffer(e.rank(), call.out + mine.begin), only_rank(e.rank()), mine.size());
    return meet(e, Leg::done, everyone);
  });
}

ALLFOLD_ANY_SIDE_END

}  // namespace allfold
