// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/executor.hpp>
#include <allfold/base/config.hpp>

namespace allfold {

/// Tells block b of every rank in `mask` that this one is at `leg` of its round: what it did before is visible to who
/// awaits that. The lanes share the peers among themselves.
ALLFOLD_ANY_SIDE
template <executor E>
ALLFOLD_HD bool announce(E& e, Leg leg, RankMask mask) {
  if (!e.sync(true)) return false;
  for (int peer = e.lane(); peer < e.world_size(); peer += e.lanes()) {
    if (peer != e.rank() && has_rank(mask, peer)) e.signal(peer, leg);
  }
  return true;
}

/// Waits until block b of every rank in `mask` has announced `leg` of the round so many `behind` the current one.
ALLFOLD_ANY_SIDE
template <executor E>
ALLFOLD_HD bool await(E& e, Leg leg, RankMask mask, int behind = 0) {
  bool ok = true;
  for (int peer = e.lane(); peer < e.world_size() && ok; peer += e.lanes()) {
    if (peer != e.rank() && has_rank(mask, peer)) ok = e.wait(peer, leg, behind);
  }
  return e.sync(ok);
}

/// Block b of every rank in `mask` meets: what any of them did before is visible to all of them after.
ALLFOLD_ANY_SIDE
template <executor E>
ALLFOLD_HD bool meet(E& e, Leg leg, RankMask mask) {
  return announce(e, leg, mask) && await(e, leg, mask);
}

}  // namespace allfold
