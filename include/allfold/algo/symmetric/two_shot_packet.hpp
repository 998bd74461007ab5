// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/executor.hpp>
#include <allfold/algo/symmetric/barrier.hpp>
#include <allfold/algo/symmetric/call.hpp>

namespace allfold {

/// Every rank posts each shard for its owner, folds its own shard as packets arrive, posts the result, and collects
/// the others': two flights of a packet, no meeting. Any buffers; at most as many elements as the packets hold.
///
/// In place is safe: the lane that collects a packet of results is the one that posted those inputs.
ALLFOLD_ANY_SIDE
template <executor E, class Reduction>
ALLFOLD_HD bool two_shot_packet(E& e, const AllReduceCall<Reduction>& call) {
  using T = typename Reduction::value_type;
  if (call.count == 0) return barrier(e);  // no packet would tell that peers have come
  const int me = e.rank();
  const RankMask others = all_ranks(e.world_size()) & ~only_rank(me);
  const std::size_t grain = E::template packet_elems<T>();
  const auto shard = [&](int owner) { return part_of({0, call.count}, e.world_size(), owner, grain); };

  e.begin_round();
  for (int step = 1; step < e.world_size(); ++step) {
    const int owner = me + step < e.world_size() ? me + step : me + step - e.world_size();
    e.post(Stage::inputs, call.in, shard(owner), only_rank(owner));
  }
  bool ok =
      e.fold_posted(FullFold<Reduction>{call.reduction, e.world_size()}, call.in, shard(me), call.out, others, true);
  for (int step = 1; step < e.world_size() && ok; ++step) {
    const int owner = me + step < e.world_size() ? me + step : me + step - e.world_size();
    ok = e.collect(owner, shard(owner), call.out);
  }
  return e.sync(ok);
}

}  // namespace allfold
