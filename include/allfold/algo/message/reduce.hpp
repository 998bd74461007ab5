// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/gather.hpp>
#include <allfold/algo/message/knomial.hpp>
#include <allfold/algo/message/parts.hpp>
#include <allfold/algo/message/reduce_scatter.hpp>
#include <allfold/policy/message_algorithm.hpp>

/// Reduce: the root gets the fold of all inputs. `out` is the root's alone, and may be its `in`.

namespace allfold::message {

/// Fast. Up a k-nomial tree, whose subtrees are runs of ranks and are folded in order. An operator that does not
/// commute is folded at rank 0, which passes the result on to the root. ceil(log_k P) levels, the whole vector on each
/// link.
template <endpoint E>
Task<bool> reduce_knomial(E& e, const MessageReduction r, const void* in, void* out, std::size_t count, int root,
                          int radix = default_radix) {
  const int folder = r.commutes ? root : 0;
  const Knomial tree(e.rank(), folder, e.world_size(), radix);
  const std::size_t each = count * r.partial_bytes;
  const Range values{0, count * r.value_bytes};
  auto mine = e.scratch(each);
  if (!co_await fold_one(e, r, FoldKind::values_to_partial, in, mine.data(), count)) co_return false;

  auto theirs = e.scratch(tree.places() == 1 ? 0 : static_cast<std::size_t>(radix - 1) * each);
  for (int weight = 1; weight < tree.weight; weight *= radix) {
    InFlight<E> flight;
    std::size_t at = 0;
    for (int child = tree.place + weight; child < tree.children_end(weight); child += weight, at += each) {
      if (!co_await flight.room(1)) co_return false;
      flight.add(receive_range(e, tree.rank_at(child), phase(0), theirs.data(), {at, at + each}));
    }
    if (!co_await flight.all()) co_return false;
    for (std::size_t done = 0; done < at; done += each) {
      if (!co_await fold_pair(e, r, FoldKind::partials_to_partial, mine.data(), at_byte(theirs.data(), done),
                              mine.data(), count)) {
        co_return false;
      }
    }
  }
  if (!tree.is_root()) {
    auto departure = send_range(e, tree.parent(), phase(0), mine.data(), {0, each});
    if (!co_await ended(departure)) co_return false;
  }

  if (e.rank() == folder) {
    if (folder == root) co_return co_await fold_one(e, r, FoldKind::partials_to_value, mine.data(), out, count);
    auto result = e.scratch(values.size());
    if (!co_await fold_one(e, r, FoldKind::partials_to_value, mine.data(), result.data(), count)) co_return false;
    auto departure = send_range(e, root, phase(1), result.data(), values);
    co_return co_await ended(departure);
  }
  if (e.rank() != root) co_return true;
  auto arrival = receive_range(e, folder, phase(1), out, values);
  co_return co_await ended(arrival);
}

/// Reproducible, for short vectors: all inputs are gathered up a k-nomial tree, and the root folds them.
template <endpoint E>
Task<bool> reduce_gathered(E& e, const MessageReduction r, const void* in, void* out, std::size_t count, int root) {
  const auto ranks = static_cast<std::size_t>(e.rank() == root ? e.world_size() : 0);
  const std::size_t each = count * r.value_bytes;
  auto gathered = e.scratch(ranks * each);
  if (!co_await gather_knomial(e, in, gathered.data(), each, root)) co_return false;
  if (e.rank() != root) co_return true;
  const BlockArray<const void*> operands(e.frames(), ranks);
  for (std::size_t rank = 0; rank < ranks; ++rank) operands[rank] = at_byte(gathered.data(), rank * each);
  co_return co_await e.fold(r, FoldKind::values_to_value, operands.span(), out, count);
}

/// Reproducible, for long vectors: every rank folds its shard of all inputs and sends the result to the root.
/// 2 (P - 1) / P * bytes at the root.
template <endpoint E>
Task<bool> reduce_direct(E& e, const MessageReduction r, const void* in, void* out, std::size_t count, int root) {
  const Parts shards = Parts::even(count, e.world_size(), reduction_grain);
  auto folded = e.scratch(shards.size_of(e.rank()) * r.value_bytes);
  if (!co_await reduce_scatter_pairwise(e, r, in, folded.data(), shards)) co_return false;
  co_return co_await gather_linear(e, folded.data(), out, shards.times(r.value_bytes), root, phase(1));
}

/// The algorithm of that name.
template <endpoint E>
Task<bool> reduce(E& e, ReduceMotion motion, const MessageReduction& r, const void* in, void* out, std::size_t count,
                  int root) {
  switch (motion) {
    case ReduceMotion::knomial: return reduce_knomial(e, r, in, out, count, root);
    case ReduceMotion::gathered: return reduce_gathered(e, r, in, out, count, root);
    case ReduceMotion::direct: break;
  }
  return reduce_direct(e, r, in, out, count, root);
}

}  // namespace allfold::message
