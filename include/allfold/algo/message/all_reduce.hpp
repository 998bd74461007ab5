// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>

#include <allfold/algo/message/all_gather.hpp>
#include <allfold/algo/message/all_to_all.hpp>
#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/halving.hpp>
#include <allfold/algo/message/parts.hpp>
#include <allfold/algo/message/reduce_scatter.hpp>
#include <allfold/policy/message_algorithm.hpp>

/// All-reduce: every rank gets the fold of all inputs. `in` may be `out`.
///
/// The reproducible ones (gathered, bruck, direct) fold all operands of an element at one place, in ascending rank
/// order, and round once. The fast ones pass partial results on: the same bits on every rank, but which depends on the
/// algorithm and the world size. Partials of narrow floats travel in their accumulator, twice as wide.

namespace allfold::message {

/// Fast, and keeps the order of ranks. log2 P steps in which pairs exchange and fold the whole vector.
/// Source: Thakur, Rabenseifner, Gropp 2005.
template <endpoint E>
Task<bool> all_reduce_recursive_doubling(E& e, const MessageReduction r, const void* in, void* out, std::size_t count) {
  const Core core(e.world_size());
  const Range partials{0, count * r.partial_bytes};
  const Range values{0, count * r.value_bytes};
  auto mine = e.scratch(partials.size());
  if (!co_await fold_one(e, r, FoldKind::values_to_partial, in, mine.data(), count)) co_return false;
  if (!co_await fold_spared(e, core, r, mine.data(), count, phase(0))) co_return false;

  if (!core.is_spared(e.rank())) {
    auto theirs = e.scratch(partials.size());
    const int index = core.index_of(e.rank());
    for (int step = phase(1), distance = 1; distance < core.size; ++step, distance *= 2) {
      const int partner = core.rank_of(index ^ distance);
      auto arrival = receive_range(e, partner, step, theirs.data(), partials);
      auto departure = send_range(e, partner, step, mine.data(), partials);
      if (!co_await ended(arrival, departure)) co_return false;
      const bool upper = partner < e.rank();
      if (!co_await fold_pair(e, r, FoldKind::partials_to_partial, upper ? theirs.data() : mine.data(),
                              upper ? mine.data() : theirs.data(), mine.data(), count)) {
        co_return false;
      }
    }
    if (!co_await fold_one(e, r, FoldKind::partials_to_value, mine.data(), out, count)) co_return false;
  }
  co_return co_await reward_spared(e, core, out, out, values, values, phase(2));
}

/// Shards travel around the ring and are folded on the way; then the results do. 2 (P - 1) steps, in two phases.
template <endpoint E>
Task<bool> all_reduce_ring_lane(E& e, const MessageReduction r, const void* in, void* out, std::size_t count,
                                int first_step) {
  const int ranks = e.world_size();
  const Parts shards = Parts::even(count, ranks, reduction_grain);
  const std::size_t longest = shards.size_of(0) * r.partial_bytes;
  const auto partials_of = [&](int shard) { return Range{0, shards.size_of(shard) * r.partial_bytes}; };
  auto leaving = e.scratch(longest);
  auto coming = e.scratch(longest);
  auto own = e.scratch(r.plain ? 0 : longest);

  int shard = e.rank();
  const void* operand = at_byte(in, shards.of(shard).begin * r.value_bytes);
  if (!co_await fold_one(e, r, FoldKind::values_to_partial, operand, leaving.data(), shards.size_of(shard))) {
    co_return false;
  }
  for (int step = 0; step < ranks - 1; ++step) {
    const int next = ring_rank(shard, -1, ranks);
    auto behind = receive_range(e, ring_rank(e.rank(), -1, ranks), first_step + step, coming.data(), partials_of(next));
    auto ahead = send_range(e, ring_rank(e.rank(), 1, ranks), first_step + step, leaving.data(), partials_of(shard));
    operand = at_byte(in, shards.of(next).begin * r.value_bytes);
    if (!r.plain) {  // meanwhile
      if (!co_await fold_one(e, r, FoldKind::values_to_partial, operand, own.data(), shards.size_of(next))) {
        co_return false;
      }
      operand = own.data();
    }
    if (!co_await ended(behind, ahead)) co_return false;
    if (!co_await fold_pair(e, r, FoldKind::partials_to_partial, coming.data(), operand, leaving.data(),
                            shards.size_of(next))) {
      co_return false;
    }
    shard = next;
  }
  void* const result = at_byte(out, shards.of(shard).begin * r.value_bytes);
  if (!co_await fold_one(e, r, FoldKind::partials_to_value, leaving.data(), result, shards.size_of(shard))) {
    co_return false;
  }
  co_return co_await pass_around(e, out, shards.times(r.value_bytes), shard, first_step + phase(1));
}

/// Fast, for operators that commute: 2 (P - 1) / P * bytes per rank, between neighbours only. Of a long vector two
/// halves go side by side, so that the bytes of one travel while the other is folded.
/// Source: Patarasuk, Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009.
template <endpoint E>
Task<bool> all_reduce_ring(E& e, const MessageReduction r, const void* in, void* out, std::size_t count) {
  const std::size_t shard_bytes = count * r.value_bytes / static_cast<std::size_t>(e.world_size());
  if (pieces_of(shard_bytes, piece_bytes_of(e)) == 1)
    co_return co_await all_reduce_ring_lane(e, r, in, out, count, phase(0));
  const Range upper = part_of({0, count}, 2, 1, reduction_grain);
  const std::size_t half = upper.begin * r.value_bytes;
  co_return co_await SideBySide(
      all_reduce_ring_lane(e, r, in, out, upper.begin, phase(0)),
      all_reduce_ring_lane(e, r, at_byte(in, half), at_byte(out, half), upper.size(), phase(2)));
}

/// Fast, and keeps the order of ranks. Recursive halving, then what was halved is gathered by doubling: 2 log2 P steps
/// and 2 (P - 1) / P * bytes per rank; where P is no power of two, two steps and up to twice the bytes more.
/// Source: Rabenseifner, Optimization of collective reduction operations, 2004; Thakur, Rabenseifner, Gropp 2005.
template <endpoint E>
Task<bool> all_reduce_rabenseifner(E& e, const MessageReduction r, const void* in, void* out, std::size_t count) {
  const Core core(e.world_size());
  const Parts parts = Parts::even(count, core.size, reduction_grain);
  const Range values{0, count * r.value_bytes};
  auto work = e.scratch(count * r.partial_bytes);
  if (!co_await fold_one(e, r, FoldKind::values_to_partial, in, work.data(), count)) co_return false;
  if (!co_await fold_spared(e, core, r, work.data(), count, phase(0))) co_return false;

  if (!core.is_spared(e.rank())) {
    if (!co_await fold_by_halves(e, core, r, work.data(), parts, phase(1))) co_return false;
    const int index = core.index_of(e.rank());
    int first = halved_place(index, core.size);
    const Range folded = parts.of(first);
    if (!co_await fold_one(e, r, FoldKind::partials_to_value, at_byte(work.data(), folded.begin * r.partial_bytes),
                           at_byte(out, folded.begin * r.value_bytes), folded.size())) {
      co_return false;
    }
    const Parts bytes = parts.times(r.value_bytes);
    int step = phase(2);
    for (int places = 1, distance = core.size / 2; distance > 0; ++step, places *= 2, distance /= 2) {
      const int partner = core.rank_of(index ^ distance);
      const int theirs = first ^ places;
      auto arrival = receive_range(e, partner, step, out, {bytes.of(theirs).begin, bytes.of(theirs + places - 1).end});
      auto departure = send_range(e, partner, step, out, {bytes.of(first).begin, bytes.of(first + places - 1).end});
      if (!co_await ended(arrival, departure)) co_return false;
      first &= ~places;
    }
  }
  co_return co_await reward_spared(e, core, out, out, values, values, phase(3));
}

/// Reproducible, for short vectors: all inputs are gathered by Bruck's algorithm, and every rank folds them all.
/// ceil(log2 P) steps, (P - 1) * bytes per rank.
template <endpoint E>
Task<bool> all_reduce_gathered(E& e, const MessageReduction r, const void* in, void* out, std::size_t count) {
  const int ranks = e.world_size();
  const std::size_t each = count * r.value_bytes;
  auto gathered = e.scratch(static_cast<std::size_t>(ranks) * each);  // block i is that of the rank i ahead
  void* const blocks = gathered.data();
  if (ranks == 2) {  // a step whose operands may stay where they are
    auto coming = receive_range(e, 1 - e.rank(), 0, blocks, {0, each});
    auto leaving = send_range(e, 1 - e.rank(), 0, in, {0, each});
    if (!co_await ended(coming, leaving)) co_return false;
    co_return co_await fold_pair(e, r, FoldKind::values_to_value, e.rank() == 0 ? in : blocks,
                                 e.rank() == 0 ? blocks : in, out, count);
  }
  if (!co_await e.copy(blocks, in, each)) co_return false;
  for (int step = 0, have = 1; have < ranks; ++step, have *= 2) {
    const std::size_t held = static_cast<std::size_t>(have) * each;
    const std::size_t bytes = have < ranks - have ? held : static_cast<std::size_t>(ranks - have) * each;
    auto ahead = receive_range(e, ring_rank(e.rank(), have, ranks), step, blocks, {held, held + bytes});
    auto behind = send_range(e, ring_rank(e.rank(), -have, ranks), step, blocks, {0, bytes});
    if (!co_await ended(ahead, behind)) co_return false;
  }
  const BlockArray<const void*> operands(e.frames(), static_cast<std::size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    const int block = ring_rank(rank, -e.rank(), ranks);
    operands[static_cast<std::size_t>(rank)] = at_byte(blocks, static_cast<std::size_t>(block) * each);
  }
  co_return co_await e.fold(r, FoldKind::values_to_value, operands.span(), out, count);
}

/// Reproducible, for many ranks: shards change hands by Bruck's all-to-all, their owners fold them, and the results are
/// gathered by Bruck's all-gather. 2 ceil(log2 P) steps, about (1 + log2 P / 2) * bytes per rank.
template <endpoint E>
Task<bool> all_reduce_bruck(E& e, const MessageReduction r, const void* in, void* out, std::size_t count) {
  const int ranks = e.world_size();
  const std::size_t share = share_of(count, ranks, 1);
  const std::size_t each = share * r.value_bytes;
  auto shards = e.scratch(static_cast<std::size_t>(ranks) * each);  // the last one's end is not used
  auto folded = e.scratch(each);
  if (!co_await e.copy(shards.data(), in, count * r.value_bytes)) co_return false;
  if (!co_await all_to_all_bruck(e, shards.data(), shards.data(), each, phase(0))) co_return false;

  const BlockArray<const void*> operands(e.frames(), static_cast<std::size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    operands[static_cast<std::size_t>(rank)] = at_byte(shards.data(), static_cast<std::size_t>(rank) * each);
  }
  const auto before = static_cast<std::size_t>(e.rank()) * share;
  const Range mine = Range{before, before + share}.clip(count);
  if (!co_await e.fold(r, FoldKind::values_to_value, operands.span(), folded.data(), mine.size())) co_return false;
  if (!co_await all_gather_bruck(e, folded.data(), shards.data(), each, phase(1))) co_return false;
  co_return co_await e.copy(out, shards.data(), count * r.value_bytes);
}

/// Every second piece of the shards, from piece `first` on.
template <endpoint E>
Task<bool> all_reduce_direct_lane(E& e, const MessageReduction r, const void* in, void* out, Parts shards, int first,
                                  int pieces) {
  for (int piece = first; piece < pieces; piece += 2) {
    const Parts part = shards.piece(piece, pieces);
    void* const mine = at_byte(out, part.of(e.rank()).begin * r.value_bytes);
    if (!co_await exchange_and_fold(e, r, in, mine, part, phase(0) + piece)) co_return false;
    if (!co_await all_gather_pairwise(e, mine, out, part.times(r.value_bytes), phase(1) + piece)) co_return false;
  }
  co_return true;
}

/// Reproducible, for long vectors: every rank gets its shard of all inputs straight from their owners, folds it, and
/// sends the result to all. 2 (P - 1) / P * bytes per rank. Long shards are cut, and the even and the odd pieces go
/// side by side, so that the bytes of one travel while another is folded.
template <endpoint E>
Task<bool> all_reduce_direct(E& e, const MessageReduction r, const void* in, void* out, std::size_t count) {
  const Parts shards = Parts::even(count, e.world_size(), reduction_grain);
  const int pieces = pieces_of(shards.size_of(0) * r.value_bytes, piece_bytes_of(e));
  if (pieces == 1) co_return co_await all_reduce_direct_lane(e, r, in, out, shards, 0, pieces);
  co_return co_await SideBySide(all_reduce_direct_lane(e, r, in, out, shards, 0, pieces),
                                all_reduce_direct_lane(e, r, in, out, shards, 1, pieces));
}

/// The algorithm of that name.
template <endpoint E>
Task<bool> all_reduce(E& e, AllReduceMotion motion, const MessageReduction& r, const void* in, void* out,
                      std::size_t count) {
  switch (motion) {
    case AllReduceMotion::recursive_doubling: return all_reduce_recursive_doubling(e, r, in, out, count);
    case AllReduceMotion::ring: return all_reduce_ring(e, r, in, out, count);
    case AllReduceMotion::rabenseifner: return all_reduce_rabenseifner(e, r, in, out, count);
    case AllReduceMotion::gathered: return all_reduce_gathered(e, r, in, out, count);
    case AllReduceMotion::bruck: return all_reduce_bruck(e, r, in, out, count);
    case AllReduceMotion::direct: break;
  }
  return all_reduce_direct(e, r, in, out, count);
}

/// One of several buffers that are reduced together.
struct ReducePiece {
  const void* in = nullptr;
  void* out = nullptr;  ///< may be `in`
  std::size_t count = 0;
};

/// Several buffers in one operation: they are packed one after another, so that many short ones cost what one costs.
/// `pieces` outlives the call.
template <endpoint E>
Task<bool> all_reduce_coalesced(E& e, AllReduceMotion motion, const MessageReduction r,
                                std::span<const ReducePiece> pieces) {
  std::size_t count = 0;
  for (const ReducePiece& piece : pieces) count += piece.count;
  auto packed = e.scratch(count * r.value_bytes);
  std::size_t at = 0;
  for (const ReducePiece& piece : pieces) {
    const std::size_t bytes = piece.count * r.value_bytes;
    if (!co_await e.copy(at_byte(packed.data(), at), piece.in, bytes)) co_return false;
    at += bytes;
  }
  if (!co_await all_reduce(e, motion, r, packed.data(), packed.data(), count)) co_return false;
  at = 0;
  for (const ReducePiece& piece : pieces) {
    const std::size_t bytes = piece.count * r.value_bytes;
    if (!co_await e.copy(piece.out, at_byte(packed.data(), at), bytes)) co_return false;
    at += bytes;
  }
  co_return true;
}

}  // namespace allfold::message
