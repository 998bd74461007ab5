// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include <allfold/algo/fold.hpp>
#include <allfold/memory/signal.hpp>
#include <allfold/memory/window.hpp>

namespace allfold {

/// What an algorithm is written over: one lane of one block of one rank's team, and what lanes can do together.
///
/// Every lane of every block of every rank runs the algorithm. Block b of a rank meets only block b of its peers, so
/// what block b of one rank reads of another must have been written by block b there. A function that returns bool
/// says whether the collective goes on; after false a lane returns at once, touching nothing of a peer.
///
///   rank, world_size, block, blocks, lane, lanes     who and how many
///   begin_round(), epoch()                           a new epoch, the same number of times on every rank; the current
///   sync(ok) -> bool                                 the block's lanes meet; true if all came with true. What they did
///                                                    before is visible to all of them after
///   signal(peer, leg)                                release, to the same-numbered block
///   wait(peer, leg, behind) -> bool                  acquire; of the round so many before the current one
///   staging(offset), staging_bytes()                 memory of the channel that all ranks reach; what a round uses
///                                                    again must have been the same block's
///   inbox(of, slot), inbox_slot_bytes()              this block's slots in a rank's memory, into which peers write
///                                                    unasked: 2 * push_slots * world_size
///   copy(to, from, bytes)                            the block together
///   fold(fold, sources, operands, targets, mask, n)  the block together: n elements; the result goes to the target of
///                                                    each rank in the mask, perhaps by way of the own if
///                                                    targets.reach says that this is symmetric memory
///   plan_packets<T>(count, parts)                    how a vector travels whose shards are so many
///   packet_elems(), packet_round()                   elements of one packet, and of all of a round; more than 0
///   post(data, range)                                elements as packets, to all peers
///   scatter(data, shard_of)                          as packets, each shard_of(peer) to that peer
///   fold_posted(fold, in, range, out, answer)        folds what all ranks sent of a range, own operand from `in`;
///                                                    sends them the result too if asked
///   collect(shard_of, out)                           takes over the results that the peers sent, each of its shard
template <class E>
concept executor = requires(E& e, std::size_t n, bool ok, int peer, void* to, const void* from) {
  { e.rank() } -> std::same_as<int>;
  { e.world_size() } -> std::same_as<int>;
  { e.block() } -> std::same_as<int>;
  { e.blocks() } -> std::same_as<int>;
  { e.lane() } -> std::same_as<int>;
  { e.lanes() } -> std::same_as<int>;
  e.begin_round();
  { e.epoch() } -> std::same_as<std::uint32_t>;
  { e.sync(ok) } -> std::same_as<bool>;
  e.signal(peer, Leg::start);
  { e.wait(peer, Leg::start, 0) } -> std::same_as<bool>;
  { e.staging(n) } -> std::same_as<Buffer>;
  { e.staging_bytes() } -> std::same_as<std::size_t>;
  { e.inbox(peer, 0) } -> std::same_as<void*>;
  { e.inbox_slot_bytes() } -> std::same_as<std::size_t>;
  e.copy(to, from, n);
};

}  // namespace allfold
