// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/executor.hpp>
#include <allfold/base/config.hpp>

namespace allfold {

/// Tells block b of every rank in `mask` that this one is at `leg` of its round: what it did before is visible to who
/// awaits that. The lanes share the peers among themselves. `ok`: of the lane; if one comes with false, all get false.
ALLFOLD_ANY_SIDE
template <executor E>
ALLFOLD_HD bool announce(E& e, Leg leg, RankMask mask, bool ok = true) {
  if (!e.sync(ok)) return false;
  for (int peer = e.lane(); peer < e.world_size(); peer += e.lanes()) {
    if (peer != e.rank() && has_rank(mask, peer)) e.signal(peer, leg);
  }
  return true;
}

/// Waits until block b of every rank in `mask` has announced `leg` of the current round.
ALLFOLD_ANY_SIDE
template <executor E>
ALLFOLD_HD bool await(E& e, Leg leg, RankMask mask) {
  bool ok = true;
  for (int peer = e.lane(); peer < e.world_size() && ok; peer += e.lanes()) {
    if (peer != e.rank() && has_rank(mask, peer)) ok = e.wait(peer, leg, 0);
  }
  return e.sync(ok);
}

/// The same of the round so many `behind` the current one, each lane for itself: so lanes that still announce hold up
/// no others. A lane that gets false comes to the block's next sync with it.
ALLFOLD_ANY_SIDE
template <executor E>
ALLFOLD_HD bool await_alone(E& e, Leg leg, RankMask mask, int behind) {
  bool ok = true;
  for (int peer = 0; peer < e.world_size() && ok; ++peer) {
    if (peer != e.rank() && has_rank(mask, peer)) ok = e.wait(peer, leg, behind);
  }
  return ok;
}

/// Block b of every rank in `mask` meets: what any of them did before is visible to all of them after.
ALLFOLD_ANY_SIDE
template <executor E>
ALLFOLD_HD bool meet(E& e, Leg leg, RankMask mask) {
  return announce(e, leg, mask) && await(e, leg, mask);
}

}  // namespace allfold
