// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/symmetric/barrier.hpp>
#include <allfold/algo/symmetric/call.hpp>
#include <allfold/algo/symmetric/meet.hpp>

namespace allfold {

ALLFOLD_ANY_SIDE_BEGIN

/// Walks over a vector in rounds of as many elements as the packets hold: `body(Range)` until it says false. A packet
/// is no longer than one of so many `parts`. A round begins as soon as a lane is through with the one before, for two
/// sets of packets take turns: a lane that posts into a set again has met every peer's in the round between. The
/// meeting at the end holds that up for the next call, whose packets may be other lanes'; a call of one round needs
/// none.
ALLFOLD_ANY_SIDE
template <class T, executor E, class Body>
ALLFOLD_HD bool in_packet_rounds(E& e, std::size_t count, int parts, Body&& body) {
  if (count == 0) return barrier(e);  // no packet would tell that peers have come
  e.template plan_packets<T>(count, parts);
  const std::size_t limit = e.packet_round();
  const bool ok = in_rounds(count, limit, [&](Round round) {
    e.begin_round();
    return body(round.all());
  });
  // Whether a round has failed may differ between lanes, which come to one sync all the same.
  if (count <= limit) return e.sync(ok);
  const RankMask everyone = all_ranks(e.world_size());
  return announce(e, Leg::done, everyone, ok) && await(e, Leg::done, everyone);
}

ALLFOLD_ANY_SIDE_END

}  // namespace allfold
