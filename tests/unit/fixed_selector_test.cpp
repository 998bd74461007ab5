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

}  // namespace
