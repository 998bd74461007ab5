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
ALLFOLD_HD bool one_shot_packet_round(E& e, const AllReduceCall<Reduction>& call, Range round) {
  using T = typename Reduction::value_type;
  const T* const in = call.in + round.begin;
  const Range all{0, round.size()};
  e.post(in, all);
  return e.fold_posted(FullFold<Reduction>{call.reduction, e.world_size()}, in, all, call.out + round.begin, false);
}

/// Every rank posts its input as packets and folds all ranks' packets as they arrive: no meeting, so one flight of a
/// packet is all that a small message takes. Any buffers.
ALLFOLD_ANY_SIDE
template <executor E, class Reduction>
ALLFOLD_HD bool one_shot_packet(E& e, const AllReduceCall<Reduction>& call) {
  using T = typename Reduction::value_type;
  return in_packet_rounds<T>(e, call.count, 1, [&](Range round) { return one_shot_packet_round(e, call, round); });
}

ALLFOLD_ANY_SIDE_END

}  // namespace allfold
