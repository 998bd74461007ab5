// SPDX-License-Identifier: Apache-2.0
#include <cstddef>

#include <doctest/doctest.h>

#include <allfold/select/threshold.hpp>

namespace {

using allfold::Algorithm;
using allfold::SelectionQuery;
using allfold::ThresholdSelector;
using allfold::TopologyKind;

constexpr std::size_t KiB = 1024;
constexpr std::size_t MiB = 1024 * KiB;

constexpr Algorithm at(std::size_t bytes, TopologyKind topology = TopologyKind::fully_connected) {
  return ThresholdSelector{}.select({.bytes = bytes, .world_size = 8, .topology = topology});
}
static_assert(at(0) == Algorithm::one_shot);

TEST_CASE("ThresholdSelector goes from one_shot to two_shot to none") {
  CHECK(at(16) == Algorithm::one_shot);
  CHECK(at(256 * KiB) == Algorithm::one_shot);
  CHECK(at(256 * KiB + 1) == Algorithm::two_shot);
  CHECK(at(10 * MiB) == Algorithm::two_shot);
  CHECK(at(10 * MiB + 1) == Algorithm::none);
}

TEST_CASE("ThresholdSelector knows one algorithm for the hybrid cube mesh, and none for unknown links") {
  CHECK(at(16, TopologyKind::hybrid_cube_mesh) == Algorithm::hybrid_cube_mesh);
  CHECK(at(256 * KiB, TopologyKind::hybrid_cube_mesh) == Algorithm::hybrid_cube_mesh);
  CHECK(at(256 * KiB + 1, TopologyKind::hybrid_cube_mesh) == Algorithm::none);
  CHECK(at(16, TopologyKind::unknown) == Algorithm::none);
  CHECK(at(1 * MiB, TopologyKind::unknown) == Algorithm::none);
}

TEST_CASE("ThresholdSelector leaves unaligned calls to the fallback") {
  for (const std::size_t bytes : {std::size_t{17}, 1 * MiB}) {
    CHECK(ThresholdSelector{}.select({.bytes = bytes, .world_size = 4, .aligned = false}) == Algorithm::none);
  }
}

TEST_CASE("ThresholdSelector never chooses what cannot run") {
  for (const TopologyKind topology :
       {TopologyKind::fully_connected, TopologyKind::hybrid_cube_mesh, TopologyKind::unknown}) {
    for (unsigned bits = 0; bits < 64; ++bits) {
      for (const std::size_t bytes : {16 * KiB, 1 * MiB, 64 * MiB}) {
        SelectionQuery query{.bytes = bytes, .world_size = 8, .topology = topology};
        query.possible.bits = static_cast<std::uint8_t>(bits);
        const Algorithm choice = ThresholdSelector{}.select(query);
        CHECK((choice == Algorithm::none || query.possible.contains(choice)));
        CHECK(ThresholdSelector::candidates.contains(choice));
        if (query.possible.contains(at(bytes, topology))) CHECK(choice == at(bytes, topology));
      }
    }
  }
}

TEST_CASE("ThresholdSelector is a value with thresholds to set") {
  const ThresholdSelector small{.one_shot_bytes = 0, .two_shot_bytes = 64};
  CHECK(small == ThresholdSelector{.one_shot_bytes = 0, .two_shot_bytes = 64});
  CHECK(small != ThresholdSelector{});
  CHECK(small.select({.bytes = 64, .world_size = 2}) == Algorithm::two_shot);
  CHECK(small.select({.bytes = 80, .world_size = 2}) == Algorithm::none);
}

}  // namespace
