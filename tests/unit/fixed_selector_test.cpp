// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include <doctest/doctest.h>

#include <allfold/select/fixed.hpp>

namespace {

using allfold::Algorithm;
using allfold::AlgorithmSet;
using allfold::FixedSelector;
using allfold::SelectionQuery;
using allfold::TopologyKind;

template <Algorithm A>
void check_fixed() {
  CAPTURE(allfold::name(A));
  CHECK(FixedSelector<A>::candidates == AlgorithmSet::of(A));
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{17}, std::size_t{1} << 40}) {
    for (const TopologyKind topology :
         {TopologyKind::fully_connected, TopologyKind::hybrid_cube_mesh, TopologyKind::unknown}) {
      for (unsigned bits = 0; bits < 64; ++bits) {
        SelectionQuery query{.bytes = bytes, .world_size = 3, .topology = topology};
        query.possible.bits = static_cast<std::uint8_t>(bits);
        CHECK(FixedSelector<A>{}.select(query) == (query.possible.contains(A) ? A : Algorithm::none));
      }
    }
  }
}

TEST_CASE("FixedSelector chooses its algorithm wherever that can run, else none") {
  check_fixed<Algorithm::none>();
  check_fixed<Algorithm::one_shot>();
  check_fixed<Algorithm::one_shot_packet>();
  check_fixed<Algorithm::two_shot>();
  check_fixed<Algorithm::two_shot_packet>();
  check_fixed<Algorithm::hybrid_cube_mesh>();
}

static_assert(FixedSelector<Algorithm::two_shot>{}.select({}) == Algorithm::two_shot);

using allfold::AllGatherMotion;
using allfold::AllReduceMotion;
using allfold::AllToAllMotion;
using allfold::BroadcastMotion;
using allfold::MessageQuery;
using allfold::ReduceMotion;
using allfold::ReduceScatterMotion;

TEST_CASE("FixedSelector chooses its motion wherever that gives what is asked for") {
  constexpr FixedSelector<AllReduceMotion::ring, ReduceMotion::knomial, ReduceScatterMotion::recursive_halving> fast;
  CHECK(fast.all_reduce({}) == AllReduceMotion::ring);
  CHECK(fast.all_reduce({.commutes = false}) == AllReduceMotion::direct);
  CHECK(fast.reduce({.commutes = false}) == ReduceMotion::knomial);
  CHECK(fast.reduce_scatter({}) == ReduceScatterMotion::recursive_halving);
  constexpr MessageQuery in_order{.reproducible = true};
  CHECK(fast.all_reduce(in_order) == AllReduceMotion::direct);
  CHECK(fast.reduce(in_order) == ReduceMotion::direct);
  CHECK(fast.reduce_scatter(in_order) == ReduceScatterMotion::pairwise);
  constexpr FixedSelector<AllReduceMotion::bruck, AllGatherMotion::ring, AllToAllMotion::bruck> other;
  CHECK(other.all_reduce(in_order) == AllReduceMotion::bruck);
  CHECK(other.all_gather(in_order) == AllGatherMotion::ring);
  CHECK(other.all_to_all({}) == AllToAllMotion::bruck);
  CHECK(other.broadcast({}) == BroadcastMotion::knomial);
}

TEST_CASE("FixedSelector with an algorithm and motions serves both kinds of transport") {
  using Both = FixedSelector<Algorithm::two_shot, AllReduceMotion::ring>;
  static_assert(allfold::symmetric_selector_policy<Both> && allfold::message_selector_policy<Both>);
  static_assert(Both::candidates == AlgorithmSet::of(Algorithm::two_shot));
  CHECK(Both{}.select({}) == Algorithm::two_shot);
  CHECK(Both{}.all_reduce({}) == AllReduceMotion::ring);
}

}  // namespace
