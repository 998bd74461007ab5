// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/algo/message/all_gather.hpp>
#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/knomial.hpp>
#include <allfold/algo/message/parts.hpp>
#include <allfold/policy/message_algorithm.hpp>

/// Broadcast: every rank gets the root's bytes. `data` is what the root sends and what the others receive.

namespace allfold::message {

/// Down a k-nomial tree, the largest subtrees first: ceil(log_k P) levels, the whole message on each link.
template <endpoint E>
Task<bool> broadcast_knomial(E& e, void* data, std::size_t bytes, int root, int radix = default_radix, int step = 0) {
  const Knomial tree(e.rank(), root, e.world_size(), radix);
  if (!tree.is_root()) {
    auto arrival = receive_range(e, tree.parent(), step, data, {0, bytes});
    if (!co_await ended(arrival)) co_return false;
  }
  InFlight<E> flight;
  for (int weight = tree.weight / radix; weight > 0; weight /= radix) {
    for (int child = tree.place + weight; child < tree.children_end(weight); child += weight) {
      if (!co_await flight.room(1)) co_return false;
      flight.add(send_range(e, tree.rank_at(child), step, data, {0, bytes}));
    }
  }
  co_return co_await flight.all();
}

/// Tells the parent that a piece is here, by its first byte, and waits until the children have said so.
template <endpoint E>
Task<bool> knomial_confirmed(E& e, const void* piece, int root, int step) {
  const Knomial tree(e.rank(), root, e.world_size(), default_radix);
  auto heard = e.scratch(1);
  InFlight<E> flight;
  if (!tree.is_root()) flight.add(e.send(tree.parent(), step, piece, 1));
  for (int weight = tree.weight / default_radix; weight > 0; weight /= default_radix) {
    for (int child = tree.place + weight; child < tree.children_end(weight); child += weight) {
      if (!co_await flight.room(1)) co_return false;
      flight.add(e.receive(tree.rank_at(child), step, heard.data(), 1));
    }
  }
  co_return co_await flight.all();
}

/// Every second piece of the message, from piece `first` on. The next is sent when the children have the last, so that
/// no rank sends more than its children come to read, in this call and in those that follow.
template <endpoint E>
Task<bool> broadcast_knomial_lane(E& e, void* data, std::size_t bytes, int root, int first, int pieces) {
  const Parts whole = Parts::equal(bytes);
  for (int piece = first; piece < pieces; piece += 2) {
    const Range part = whole.piece(piece, pieces).of(0);
    if (!co_await broadcast_knomial(e, at_byte(data, part.begin), part.size(), root, default_radix, phase(0) + piece)) {
      co_return false;
    }
    if (piece + 2 < pieces && !co_await knomial_confirmed(e, at_byte(data, part.begin), root, phase(1) + piece)) {
      co_return false;
    }
  }
  co_return true;
}

/// The same for long messages: the even and the odd pieces go side by side, so that a rank passes one on while the next
/// one comes.
template <endpoint E>
Task<bool> broadcast_knomial_pieces(E& e, void* data, std::size_t bytes, int root, int pieces) {
  co_return co_await SideBySide(broadcast_knomial_lane(e, data, bytes, root, 0, pieces),
                                broadcast_knomial_lane(e, data, bytes, root, 1, pieces));
}

/// The root's bytes are scattered down a binomial tree and all-gathered around the ring: 2 (P - 1) / P * bytes per
/// rank, however many there are.
/// Source: Thakur, Rabenseifner, Gropp 2005; van de Geijn's broadcast.
template <endpoint E>
Task<bool> broadcast_scatter_all_gather(E& e, void* data, std::size_t bytes, int root) {
  const Knomial tree(e.rank(), root, e.world_size(), 2);
  const Parts parts = Parts::even(bytes, e.world_size(), cache_line_bytes);  // [place]
  const auto below = [&](int place, int weight) {
    return Range{parts.of(place).begin, parts.of(place + tree.places_below(place, weight) - 1).end};
  };

  if (!tree.is_root()) {
    auto arrival = receive_range(e, tree.parent(), 0, data, below(tree.place, tree.weight));
    if (!co_await ended(arrival)) co_return false;
  }
  InFlight<E> flight;
  for (int weight = tree.weight / 2; weight > 0; weight /= 2) {
    const int child = tree.place + weight;
    if (child >= tree.ranks) continue;
    if (!co_await flight.room(1)) co_return false;
    flight.add(send_range(e, tree.rank_at(child), 0, data, below(child, weight)));
  }
  if (!co_await flight.all()) co_return false;
  co_return co_await pass_around(e, data, parts, tree.place, phase(1));
}

/// The algorithm of that name.
template <endpoint E>
Task<bool> broadcast(E& e, BroadcastMotion motion, void* data, std::size_t bytes, int root) {
  if (motion == BroadcastMotion::scatter_all_gather) return broadcast_scatter_all_gather(e, data, bytes, root);
  const int pieces = pieces_of(bytes, piece_bytes_of(e));
  return pieces == 1 ? broadcast_knomial(e, data, bytes, root) : broadcast_knomial_pieces(e, data, bytes, root, pieces);
}

}  // namespace allfold::message
