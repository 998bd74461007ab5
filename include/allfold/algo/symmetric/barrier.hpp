// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/symmetric/meet.hpp>

namespace allfold {

/// Returns when every rank of the world has called it.
ALLFOLD_ANY_SIDE
template <executor E>
ALLFOLD_HD bool barrier(E& e) {
  e.begin_round();
  return meet(e, Leg::start, all_ranks(e.world_size()));
}

/// Returns when every rank of `group` has; the other ranks take no part.
ALLFOLD_ANY_SIDE
template <executor E>
ALLFOLD_HD bool group_barrier(E& e, RankMask group) {
  return meet(e, Leg::group, group);
}

}  // namespace allfold
