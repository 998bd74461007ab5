// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/message/endpoint.hpp>

namespace allfold::message {

/// A rank's place in a k-nomial tree. Places count from the root around the ring of ranks. Written in base k, a place's
/// parent has its lowest digit that is not zero cleared: so the subtree below a place is [place, place + weight), where
/// weight is that digit's, and its children are place + d * w for d = 1 .. k - 1 and every lower weight w.
struct Knomial {
  int ranks;
  int root;
  int radix;
  int place;
  int weight = 1;

  Knomial(int rank, int root_rank, int world_size, int k) noexcept
      : ranks(world_size), root(root_rank), radix(k), place(ring_rank(rank, -root_rank, world_size)) {
    while (weight < ranks && place % (weight * radix) == 0) weight *= radix;
  }

  bool is_root() const noexcept { return place == 0; }
  int rank_at(int of_place) const noexcept { return ring_rank(of_place, root, ranks); }
  int parent() const noexcept { return rank_at(place - place % (weight * radix)); }
  /// Where the children that hang at weight `w` end; they are place + w, place + 2 w, ..
  int children_end(int w) const noexcept { return place + w * radix < ranks ? place + w * radix : ranks; }
  /// How many places are in the subtree of weight `w` that begins at `of_place`.
  int places_below(int of_place, int w) const noexcept { return of_place + w < ranks ? w : ranks - of_place; }
  int places() const noexcept { return places_below(place, weight); }
};

/// The tree that is used unless a caller asks for another: fewer levels than a binary one, and a parent that has not
/// more than three messages of a level to deal with.
inline constexpr int default_radix = 4;

}  // namespace allfold::message
