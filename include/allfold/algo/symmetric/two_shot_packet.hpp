// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/symmetric/call.hpp>
#include <allfold/algo/symmetric/packet_rounds.hpp>

namespace allfold {

ALLFOLD_ANY_SIDE_BEGIN

/// One round of it.
ALLFOLD_ANY_SIDE
template <executor E, class Reduction>
ALLFOLD_HD bool two_shot_packet_round(E& e, const AllReduceCall<Reduction>& call, Range round) {
  using T = typename Reduction::value_type;
  const T* const in = call.in + round.begin;
  T* const out = call.out + round.begin;
  const std::size_t each = share_of(round.size(), e.world_size(), e.packet_elems());
  const auto shard = [&](int owner) {
    const std::size_t begin = static_cast<std::size_t>(owner) * each;
    return Range{begin, begin + each}.clip(round.size());
  };
  e.scatter(in, shard);
  return e.fold_posted(FullFold<Reduction>{call.reduction, e.world_size()}, in, shard(e.rank()), out, true) &&
         e.collect(shard, out);
}

/// Every rank posts each shard for its owner, folds its own shard as packets arrive, posts the result, and collects
/// the others': two flights of a packet, no meeting, and both motions overlap. Any buffers.
///
/// In place is safe: the lane that collects a packet of results is the one that posted those inputs.
ALLFOLD_ANY_SIDE
template <executor E, class Reduction>
ALLFOLD_HD bool two_shot_packet(E& e, const AllReduceCall<Reduction>& call) {
  using T = typename Reduction::value_type;
  return in_packet_rounds<T>(e, call.count, e.world_size(),
                             [&](Range round) { return two_shot_packet_round(e, call, round); });
}

ALLFOLD_ANY_SIDE_END

}  // namespace allfold
