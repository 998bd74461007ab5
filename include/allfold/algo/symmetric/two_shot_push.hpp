// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/symmetric/call.hpp>
#include <allfold/algo/symmetric/meet.hpp>

namespace allfold {

ALLFOLD_ANY_SIDE_BEGIN

/// Every rank pushes each shard, in chunks, into its owner's inbox; owners fold their chunks from memory of their own
/// and push the results to all outputs: two motions of the data, 2 (P - 1) / P * bytes per link, both by stores, which
/// links carry faster than loads. A block folds push_lag chunks behind what it pushes, so that both motions overlap.
/// Any input; an output that peers cannot reach is filled from the inbox, push_lag chunks later still.
///
/// A slot is free again without a word: who pushes in a round has seen its peer announce that of push_lag + 1 rounds
/// ago, and the peer had then folded (and collected) all that lay in the slot.
///
/// In place is safe: a chunk of results arrives only where this rank has pushed its own input before.
ALLFOLD_ANY_SIDE
template <executor E, class Reduction>
ALLFOLD_HD bool two_shot_push(E& e, const AllReduceCall<Reduction>& call) {
  using T = typename Reduction::value_type;
  const int me = e.rank();
  const int ranks = e.world_size();
  const RankMask everyone = all_ranks(ranks);
  const bool stage_out = call.outputs.reach == Reach::own;

  // All shards are cut alike, by the length of the longest.
  const std::size_t shard_elems = share_of(call.count, ranks, line_grain<T>());
  const std::size_t part_elems = share_of(shard_elems, e.blocks(), line_grain<T>());
  const std::size_t slot_elems = e.inbox_slot_bytes() / sizeof(T);
  const std::size_t chunk_elems = stage_out ? slot_elems : push_chunk(part_elems, slot_elems, line_grain<T>());
  const auto chunk_of = [&](int shard, int chunk) {
    const std::size_t shard_begin = static_cast<std::size_t>(shard) * shard_elems;
    const std::size_t part = static_cast<std::size_t>(e.block()) * part_elems;
    const std::size_t begin = static_cast<std::size_t>(chunk) * chunk_elems;
    return Range{begin, begin + chunk_elems}
        .clip(part_elems)
        .moved_by(part)
        .clip(shard_elems)
        .moved_by(shard_begin)
        .clip(call.count);
  };
  // Of the chunk that was pushed so many rounds `behind`.
  const auto input_slot = [&](int behind, int from) { return push_slot(e.epoch(), behind, ranks) + from; };
  const auto result_slot = [&](int behind, int from) { return input_slot(behind, from) + ranks; };

  // An empty one at least, which tells that this rank has come.
  const int chunks = part_elems == 0 ? 1 : static_cast<int>((part_elems + chunk_elems - 1) / chunk_elems);
  const int rounds = chunks + (stage_out ? 2 : 1) * push_lag;
  bool ok = true;
  for (int round = 0; round < rounds; ++round) {
    e.begin_round();
    if (round < chunks) {
      for (int n = 0; n < ranks - 1; ++n) {
        const int peer = nth_peer(me, ranks, e.block(), n);
        const Range part = chunk_of(peer, round);
        e.copy(e.inbox(peer, input_slot(0, me)), call.in + part.begin, part.size() * sizeof(T));
      }
      if (!announce(e, Leg::start, everyone, ok)) return false;
    }
    const int folding = round - push_lag;
    ok = ok && (folding < 0 || folding >= chunks || await_alone(e, Leg::start, everyone, push_lag));
    if (ok && folding >= 0 && folding < chunks) {
      const Range part = chunk_of(me, folding);
      Buffer inputs;
      Buffer outputs = stage_out ? Buffer{} : slice<T>(call.outputs, part.begin);
      for (int r = 0; r < max_window_ranks; ++r) {
        if (r >= ranks) break;
        inputs.at[r] = e.inbox(me, input_slot(push_lag, r));
        if (stage_out) outputs.at[r] = e.inbox(r, result_slot(push_lag, me));
      }
      inputs = with_part(inputs, me, const_cast<T*>(call.in + part.begin));
      outputs = with_part(outputs, me, call.out + part.begin);
      e.fold(FullFold<Reduction>{call.reduction, ranks}, inputs, Operands::ascending(everyone), outputs, everyone,
             part.size());
    }
    if (stage_out && folding >= 0 && folding < chunks && !announce(e, Leg::folded, everyone, ok)) return false;
    const int collecting = round - 2 * push_lag;
    if (stage_out && collecting >= 0) {
      ok = ok && await_alone(e, Leg::folded, everyone, push_lag);
      if (!ok) continue;
      for (int n = 0; n < ranks - 1; ++n) {
        const int peer = nth_peer(me, ranks, e.block(), n);
        const Range part = chunk_of(peer, collecting);
        e.copy(call.out + part.begin, e.inbox(me, result_slot(2 * push_lag, peer)), part.size() * sizeof(T));
      }
    }
  }
  return announce(e, Leg::done, everyone, ok) && await(e, Leg::done, everyone);
}

ALLFOLD_ANY_SIDE_END

}  // namespace allfold
