// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/knomial.hpp>
#include <allfold/algo/message/parts.hpp>

/// Gather: the root gets every rank's part. `out` is the root's alone; its own part of it may be its `in`. Bytes.

namespace allfold::message {

/// Up a k-nomial tree: ceil(log_k P) levels; a rank passes on its whole subtree at once. For equal parts.
template <endpoint E>
Task<bool> gather_knomial(E& e, const void* in, void* out, std::size_t each, int root, int radix = default_radix,
                          int step = 0) {
  const Knomial tree(e.rank(), root, e.world_size(), radix);
  const auto blocks = [each](int count) { return static_cast<std::size_t>(count) * each; };
  if (!tree.is_root() && tree.places() == 1) {
    auto departure = send_range(e, tree.parent(), step, in, {0, each});
    co_return co_await ended(departure);
  }

  // In the order of places, which is that of ranks where the root is rank 0.
  const bool in_order = tree.is_root() && root == 0;
  auto subtree = e.scratch(in_order ? 0 : blocks(tree.places()));
  void* const held = in_order ? out : subtree.data();
  if (!co_await e.copy(held, in, each)) co_return false;
  InFlight<E> flight;
  for (int weight = 1; weight < tree.weight; weight *= radix) {
    for (int child = tree.place + weight; child < tree.children_end(weight); child += weight) {
      const std::size_t at = blocks(child - tree.place);
      if (!co_await flight.room(1)) co_return false;
      flight.add(
          receive_range(e, tree.rank_at(child), step, held, {at, at + blocks(tree.places_below(child, weight))}));
    }
  }
  if (!co_await flight.all()) co_return false;

  if (!tree.is_root()) {
    auto departure = send_range(e, tree.parent(), step, held, {0, blocks(tree.places())});
    co_return co_await ended(departure);
  }
  if (in_order) co_return true;
  const std::size_t after = blocks(tree.ranks - root);
  if (!co_await e.copy(at_byte(out, blocks(root)), held, after)) co_return false;
  co_return co_await e.copy(out, at_byte(held, after), blocks(root));
}

/// Every rank sends its part to the root: parts of any size.
template <endpoint E>
Task<bool> gather_linear(E& e, const void* in, void* out, Parts parts, int root, int step = 0) {
  const Range mine = parts.of(e.rank());
  if (e.rank() != root) {
    auto departure = send_range(e, root, step, in, {0, mine.size()});
    co_return co_await ended(departure);
  }
  if (!co_await e.copy(at_byte(out, mine.begin), in, mine.size())) co_return false;
  InFlight<E> flight;
  for (int i = 1; i < e.world_size(); ++i) {
    const int source = ring_rank(root, i, e.world_size());
    if (!co_await flight.room(1)) co_return false;
    flight.add(receive_range(e, source, step, out, parts.of(source)));
  }
  co_return co_await flight.all();
}

}  // namespace allfold::message
