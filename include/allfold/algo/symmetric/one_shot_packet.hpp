// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/executor.hpp>
#include <allfold/algo/symmetric/barrier.hpp>
#include <allfold/algo/symmetric/call.hpp>

namespace allfold {

/// Every rank posts its input as packets and folds all ranks' packets as they arrive: no meeting, so one flight of a
/// packet is all that a small message takes. Any buffers; at most as many elements as the packets hold.
ALLFOLD_ANY_SIDE
template <executor E, class Reduction>
ALLFOLD_HD bool one_shot_packet(E& e, const AllReduceCall<Reduction>& call) {
  if (call.count == 0) return barrier(e);  // no packet would tell that peers have come
  const RankMask everyone = all_ranks(e.world_size());
  const Range all{0, call.count};
  e.begin_round();
  e.post(Stage::inputs, call.in, all, everyone);
  const bool folded = e.fold_posted(FullFold<Reduction>{call.reduction, e.world_size()}, call.in, all, call.out,
                                    only_rank(e.rank()), false);
  return e.sync(folded);
}

}  // namespace allfold
