// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/symmetric/call.hpp>
#include <allfold/algo/symmetric/meet.hpp>

namespace allfold {

ALLFOLD_ANY_SIDE_BEGIN

/// For eight ranks linked as a hybrid cube mesh: each folds its quad's inputs, then joins its partner's partial result
/// to its own, so that data crosses direct links alone. Every rank joins in the same order (first quad, second quad)
/// and gets the same bits; they differ from the other algorithms' where the operator is not associative.
///
/// In place is safe: the meeting of partners comes after that of the quad, so nobody reads an input any more.
ALLFOLD_ANY_SIDE
template <executor E, class Reduction>
ALLFOLD_HD bool hybrid_cube_mesh(E& e, const AllReduceCall<Reduction>& call) {
  using T = typename Reduction::value_type;
  using Partial = typename Reduction::accumulator;
  const int me = e.rank();
  const RankMask neighbours = call.mesh.quad | only_rank(call.mesh.partner);
  const bool staged = call.inputs.reach != Reach::mapped;
  const std::size_t stage_bytes = e.staging_bytes() / 2 / cache_line_bytes * cache_line_bytes;
  constexpr std::size_t widest = sizeof(T) > sizeof(Partial) ? sizeof(T) : sizeof(Partial);

  return in_rounds(call.count, stage_bytes / widest, [&](Round round) {
    e.begin_round();
    const Range mine = part_of(round.grid, e.blocks(), e.block(), line_grain<T>()).clip(round.end);
    const Buffer inputs =
        staged ? slice<T>(e.staging(0), mine.begin - round.grid.begin) : slice<T>(call.inputs, mine.begin);
    const Buffer partials = slice<Partial>(e.staging(stage_bytes), mine.begin - round.grid.begin);
    if (staged) e.copy(inputs.at[me], call.in + mine.begin, mine.size() * sizeof(T));
    // All are told, so that whoever waits in vain can see which rank has not come; a neighbour may wait for it too.
    if (!announce(e, Leg::start, all_ranks(e.world_size())) || !await(e, Leg::start, neighbours)) return false;
    e.fold(PartialFold<Reduction>{call.reduction}, inputs, Operands::ascending(call.mesh.quad), partials, only_rank(me),
           mine.size());
    if (!meet(e, Leg::folded, neighbours)) return false;
    const int partner = call.mesh.partner;
    e.fold(FinalFold<Reduction>{call.reduction, e.world_size()}, partials,
           call.mesh.first_quad ? Operands::pair(me, partner) : Operands::pair(partner, me),
           own_buffer(me, call.out + mine.begin), only_rank(me), mine.size());
    return meet(e, Leg::done, neighbours);
  });
}

ALLFOLD_ANY_SIDE_END

}  // namespace allfold
