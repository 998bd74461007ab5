// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/parts.hpp>
#include <allfold/policy/message_algorithm.hpp>

/// All-gather: every rank gets every rank's part. `in` may be this rank's part of `out`. Sizes and `Parts` are in
/// bytes.

namespace allfold::message {

/// The parts of `data` travel around the ring of ranks, each P - 1 times, until all have all of them; at first a rank
/// has the part of its `place`, which is its rank, or its rank moved by the same distance on all. P - 1 steps.
template <endpoint E>
Task<bool> pass_around(E& e, void* data, Parts parts, int place, int first_step) {
  const int ranks = e.world_size();
  for (int s = 0; s < ranks - 1; ++s) {
    const int step = first_step + s;
    const Range coming = parts.of(ring_rank(place, -s - 1, ranks));
    const Range leaving = parts.of(ring_rank(place, -s, ranks));
    auto behind = receive_range(e, ring_rank(e.rank(), -1, ranks), step, data, coming);
    auto ahead = send_range(e, ring_rank(e.rank(), 1, ranks), step, data, leaving);
    if (!co_await ended(behind, ahead)) co_return false;
  }
  co_return true;
}

/// (P - 1) / P * bytes per rank and P - 1 steps, between neighbours only; parts of any size.
template <endpoint E>
Task<bool> all_gather_ring(E& e, const void* in, void* out, Parts parts, int first_step = 0) {
  const Range mine = parts.of(e.rank());
  if (!co_await e.copy(at_byte(out, mine.begin), in, mine.size())) co_return false;
  co_return co_await pass_around(e, out, parts, e.rank(), first_step);
}

/// The same bytes in one step: each rank sends its part to all others, first to the next one.
template <endpoint E>
Task<bool> all_gather_pairwise(E& e, const void* in, void* out, Parts parts, int step = 0) {
  const int ranks = e.world_size();
  const Range mine = parts.of(e.rank());
  void* const own = at_byte(out, mine.begin);
  if (!co_await e.copy(own, in, mine.size())) co_return false;

  InFlight<E> flight;
  for (int i = 1; i < ranks; ++i) {
    const int source = ring_rank(e.rank(), -i, ranks);
    if (!co_await flight.room(2)) co_return false;
    flight.add(receive_range(e, source, step, out, parts.of(source)));
    flight.add(send_range(e, ring_rank(e.rank(), i, ranks), step, out, mine));
  }
  co_return co_await flight.all();
}

/// Every second piece of the parts, from piece `first` on.
template <endpoint E>
Task<bool> all_gather_pairwise_lane(E& e, const void* in, void* out, Parts parts, int first, int pieces) {
  for (int piece = first; piece < pieces; piece += 2) {
    const Parts part = parts.piece(piece, pieces);
    const void* const mine = at_byte(in, part.of(e.rank()).begin - parts.of(e.rank()).begin);
    if (!co_await all_gather_pairwise(e, mine, out, part, phase(0) + piece)) co_return false;
  }
  co_return true;
}

/// The same for long parts: the even and the odd pieces go side by side. For equal parts.
template <endpoint E>
Task<bool> all_gather_pairwise_pieces(E& e, const void* in, void* out, Parts parts, int pieces) {
  co_return co_await SideBySide(all_gather_pairwise_lane(e, in, out, parts, 0, pieces),
                                all_gather_pairwise_lane(e, in, out, parts, 1, pieces));
}

/// ceil(log2 P) steps: in each, what a rank has doubles. For equal parts.
/// Source: Bruck, Ho, Kipnis, Upfal, Weathersby, Efficient algorithms for all-to-all communications in multiport
/// message-passing systems, 1997.
template <endpoint E>
Task<bool> all_gather_bruck(E& e, const void* in, void* out, std::size_t each, int first_step = 0) {
  const int ranks = e.world_size();
  auto gathered = e.scratch(static_cast<std::size_t>(ranks) * each);  // block i is that of the rank i ahead
  void* const blocks = gathered.data();
  if (!co_await e.copy(blocks, in, each)) co_return false;

  for (int step = first_step, have = 1; have < ranks; ++step, have *= 2) {
    const std::size_t held = static_cast<std::size_t>(have) * each;
    const std::size_t bytes = have < ranks - have ? held : static_cast<std::size_t>(ranks - have) * each;
    auto ahead = receive_range(e, ring_rank(e.rank(), have, ranks), step, blocks, {held, held + bytes});
    auto behind = send_range(e, ring_rank(e.rank(), -have, ranks), step, blocks, {0, bytes});
    if (!co_await ended(ahead, behind)) co_return false;
  }

  const std::size_t before = static_cast<std::size_t>(e.rank()) * each;
  const std::size_t after = static_cast<std::size_t>(ranks) * each - before;
  if (!co_await e.copy(at_byte(out, before), blocks, after)) co_return false;
  co_return co_await e.copy(out, at_byte(blocks, after), before);
}

/// log2 P steps, straight into place: in each, neighbouring groups of ranks exchange what they have. For equal parts;
/// where P is no power of two, Bruck's algorithm does the same.
/// Source: Thakur, Rabenseifner, Gropp, Optimization of collective communication operations in MPICH, 2005.
template <endpoint E>
Task<bool> all_gather_recursive_doubling(E& e, const void* in, void* out, std::size_t each, int first_step = 0) {
  const int ranks = e.world_size();
  if ((ranks & (ranks - 1)) != 0) co_return co_await all_gather_bruck(e, in, out, each, first_step);

  const auto blocks_of = [each](int first, int count) {
    return Range{static_cast<std::size_t>(first) * each, static_cast<std::size_t>(first + count) * each};
  };
  if (!co_await e.copy(at_byte(out, blocks_of(e.rank(), 1).begin), in, each)) co_return false;
  for (int step = first_step, group = 1; group < ranks; ++step, group *= 2) {
    const int partner = e.rank() ^ group;
    const int theirs = partner & -group;  // the first rank of the partner's group
    auto arrival = receive_range(e, partner, step, out, blocks_of(theirs, group));
    auto departure = send_range(e, partner, step, out, blocks_of(theirs ^ group, group));
    if (!co_await ended(arrival, departure)) co_return false;
  }
  co_return true;
}

/// The algorithm of that name. `each`: bytes of every rank's part.
template <endpoint E>
Task<bool> all_gather(E& e, AllGatherMotion motion, const void* in, void* out, std::size_t each) {
  switch (motion) {
    case AllGatherMotion::ring: return all_gather_ring(e, in, out, Parts::equal(each));
    case AllGatherMotion::pairwise: {
      const int pieces = pieces_of(each, piece_bytes_of(e));
      return pieces == 1 ? all_gather_pairwise(e, in, out, Parts::equal(each))
                         : all_gather_pairwise_pieces(e, in, out, Parts::equal(each), pieces);
    }
    case AllGatherMotion::bruck: return all_gather_bruck(e, in, out, each);
    case AllGatherMotion::recursive_doubling: break;
  }
  return all_gather_recursive_doubling(e, in, out, each);
}

}  // namespace allfold::message
