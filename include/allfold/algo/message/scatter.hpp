// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/knomial.hpp>
#include <allfold/algo/message/parts.hpp>

/// Scatter: every rank gets its part of the root's buffer. `in` is the root's alone; its own part of it may be its
/// `out`. Bytes.

namespace allfold::message {

/// Down a k-nomial tree: ceil(log_k P) levels; a rank gets what its whole subtree gets, at once. For equal parts.
template <endpoint E>
Task<bool> scatter_knomial(E& e, const void* in, void* out, std::size_t each, int root, int radix = default_radix,
                           int step = 0) {
  const Knomial tree(e.rank(), root, e.world_size(), radix);
  const auto blocks = [each](int count) { return static_cast<std::size_t>(count) * each; };
  if (!tree.is_root() && tree.places() == 1) {
    auto arrival = receive_range(e, tree.parent(), step, out, {0, each});
    co_return co_await ended(arrival);
  }

  // In the order of places, which is that of ranks where the root is rank 0.
  const bool in_order = tree.is_root() && root == 0;
  auto subtree = e.scratch(in_order ? 0 : blocks(tree.places()));
  if (!tree.is_root()) {
    auto arrival = receive_range(e, tree.parent(), step, subtree.data(), {0, blocks(tree.places())});
    if (!co_await ended(arrival)) co_return false;
  } else if (!in_order) {
    const std::size_t after = blocks(tree.ranks - root);
    if (!co_await e.copy(subtree.data(), at_byte(in, blocks(root)), after)) co_return false;
    if (!co_await e.copy(at_byte(subtree.data(), after), in, blocks(root))) co_return false;
  }

  const void* const held = in_order ? in : subtree.data();
  InFlight<E> flight;
  for (int weight = tree.weight / radix; weight > 0; weight /= radix) {
    for (int child = tree.place + weight; child < tree.children_end(weight); child += weight) {
      const std::size_t at = blocks(child - tree.place);
      if (!co_await flight.room(1)) co_return false;
      flight.add(send_range(e, tree.rank_at(child), step, held, {at, at + blocks(tree.places_below(child, weight))}));
    }
  }
  if (!co_await e.copy(out, held, each)) co_return false;
  co_return co_await flight.all();
}

/// The root sends every rank its part: parts of any size.
template <endpoint E>
Task<bool> scatter_linear(E& e, const void* in, void* out, Parts parts, int root, int step = 0) {
  const Range mine = parts.of(e.rank());
  if (e.rank() != root) {
    auto arrival = receive_range(e, root, step, out, {0, mine.size()});
    co_return co_await ended(arrival);
  }
  InFlight<E> flight;
  for (int i = 1; i < e.world_size(); ++i) {
    const int target = ring_rank(root, i, e.world_size());
    if (!co_await flight.room(1)) co_return false;
    flight.add(send_range(e, target, step, in, parts.of(target)));
  }
  if (!co_await e.copy(out, at_byte(in, mine.begin), mine.size())) co_return false;
  co_return co_await flight.all();
}

}  // namespace allfold::message
