// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/message/endpoint.hpp>

namespace allfold::message {

/// Returns when every rank has called it: in step k each rank signals the one 2^k ahead of it, so that after
/// ceil(log2 P) steps it has heard of all.
/// Source: Hensgen, Finkel, Manber, Two algorithms for barrier synchronization, 1988.
template <endpoint E>
Task<bool> barrier_dissemination(E& e) {
  const int ranks = e.world_size();
  for (int step = 0, distance = 1; distance < ranks; ++step, distance *= 2) {
    auto behind = e.receive(ring_rank(e.rank(), -distance, ranks), step, nullptr, 0);
    auto ahead = e.send(ring_rank(e.rank(), distance, ranks), step, nullptr, 0);
    if (!co_await ended(behind, ahead)) co_return false;
  }
  co_return true;
}

}  // namespace allfold::message
