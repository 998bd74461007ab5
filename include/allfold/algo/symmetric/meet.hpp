// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/executor.hpp>
#include <allfold/base/config.hpp>

namespace allfold {

/// Block b of every rank in `mask` meets: what any of them did before is visible to all of them after. The lanes share
/// the peers among themselves.
ALLFOLD_ANY_SIDE
template <executor E>
ALLFOLD_HD bool meet(E& e, Leg leg, RankMask mask) {
  bool ok = e.sync(true);
  if (!ok) return false;
  for (int peer = e.lane(); peer < e.world_size(); peer += e.lanes()) {
    if (peer != e.rank() && has_rank(mask, peer)) e.signal(peer, leg);
  }
  for (int peer = e.lane(); peer < e.world_size() && ok; peer += e.lanes()) {
    if (peer != e.rank() && has_rank(mask, peer)) ok = e.wait(peer, leg);
  }
  return e.sync(ok);
}

}  // namespace allfold
