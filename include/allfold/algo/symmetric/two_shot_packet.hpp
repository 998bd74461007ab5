// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/symmetric/call.hpp>
#include <allfold/algo/symmetric/packet_rounds.hpp>

namespace allfold {

ALLFOLD_ANY_SIDE_BEGIN

/// Every rank posts each shard for its owner, folds its own shard as packets arrive, posts the result, and collects
/// the others': two flights of a packet, no meeting, and both motions overlap. Any buffers.
///
/// In place is safe: the lane that collects a packet of results is the one that posted those inputs.
ALLFOLD_ANY_SIDE
template <executor E, class Reduction>
ALLFOLD_HD bool two_shot_packet(E& e, const AllReduceCall<Reduction>& call) {
  using T = typename Reduction::value_type;
  const int me = e.rank();
  const int ranks = e.world_size();
  return in_packet_rounds<T>(e, call.count, ranks, [&](Range round) {
    const T* const in = call.in + round.begin;
    T* const out = call.out + round.begin;
    const auto shard = [&](int owner) { return part_of({0, round.size()}, ranks, owner, e.packet_elems()); };
    e.scatter(in, shard);
    return e.fold_posted(FullFold<Reduction>{call.reduction, ranks}, in, shard(me), out, true) && e.collect(shard, out);
  });
}

ALLFOLD_ANY_SIDE_END

}  // namespace allfold
