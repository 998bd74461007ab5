// SPDX-License-Identifier: Apache-2.0
#include <cstddef>

#include <doctest/doctest.h>

#include <allfold/select/message_thresholds.hpp>

namespace {

using allfold::AllReduceMotion;
using allfold::MessageQuery;
using allfold::MessageThresholds;
using allfold::MotionRow;

constexpr std::size_t MiB = std::size_t{1} << 20;

static_assert(MessageThresholds{}.all_reduce({.bytes = 8, .world_size = 64}) == AllReduceMotion::recursive_doubling);

}  // namespace

TEST_CASE("reproducible choices are reproducible, at every size and world size") {
  const MessageThresholds thresholds;
  for (int world_size = 1; world_size <= 4096; world_size = world_size < 20 ? world_size + 1 : world_size * 2 - 3) {
    for (std::size_t bytes = 0; bytes <= 256 * MiB; bytes = 2 * bytes + 1) {
      for (const bool widens : {false, true}) {
        const MessageQuery query{.bytes = bytes, .world_size = world_size, .reproducible = !widens, .widens = widens};
        CHECK(is_reproducible(thresholds.all_reduce(query)));
        CHECK(is_reproducible(thresholds.reduce(query)));
        CHECK(is_reproducible(thresholds.reduce_scatter(query)));
      }
    }
  }
}

TEST_CASE("lists of one's own are gone by, first row first, bounds included") {
  const MotionRow<AllReduceMotion> rows[] = {
      {4, AllReduceMotion::gathered, 100, AllReduceMotion::ring, 200, AllReduceMotion::direct},
      {16, AllReduceMotion::bruck, 100, AllReduceMotion::bruck, 100, AllReduceMotion::rabenseifner}};
  MessageThresholds thresholds;
  thresholds.all_reduce_rows = rows;
  const auto choice = [&](std::size_t bytes, int world_size, bool commutes = true) {
    return thresholds.all_reduce({.bytes = bytes, .world_size = world_size, .commutes = commutes});
  };
  CHECK(choice(100, 4) == AllReduceMotion::gathered);
  CHECK(choice(101, 4) == AllReduceMotion::ring);
  CHECK(choice(200, 2) == AllReduceMotion::ring);
  CHECK(choice(201, 4) == AllReduceMotion::direct);
  CHECK(choice(100, 5) == AllReduceMotion::bruck);
  CHECK(choice(101, 16) == AllReduceMotion::rabenseifner);
  CHECK(choice(8, 17) == AllReduceMotion::bruck);                 // beyond the last row
  CHECK(choice(200, 4, false) == AllReduceMotion::rabenseifner);  // a ring does not keep the order
}

TEST_CASE("short messages take few steps, and long ones send each byte seldom") {
  const MessageThresholds thresholds;
  CHECK(thresholds.all_gather({.bytes = 64, .world_size = 64}) == allfold::AllGatherMotion::recursive_doubling);
  CHECK(thresholds.all_gather({.bytes = 64 * MiB, .world_size = 64}) == allfold::AllGatherMotion::pairwise);
  CHECK(thresholds.all_to_all({.bytes = 64, .world_size = 64}) == allfold::AllToAllMotion::bruck);
  CHECK(thresholds.all_to_all({.bytes = 64 * MiB, .world_size = 64}) == allfold::AllToAllMotion::pairwise);
  CHECK(thresholds.broadcast({.bytes = 64, .world_size = 64}) == allfold::BroadcastMotion::knomial);
  CHECK(thresholds.broadcast({.bytes = 64 * MiB, .world_size = 64}) == allfold::BroadcastMotion::scatter_all_gather);
  CHECK(thresholds.reduce({.bytes = 64 * MiB, .world_size = 64}) == allfold::ReduceMotion::direct);
  CHECK(thresholds.reduce_scatter({.bytes = 64, .world_size = 64}) == allfold::ReduceScatterMotion::recursive_halving);
}

TEST_CASE("few ranks go by what was measured") {
  const MessageThresholds thresholds;
  constexpr std::size_t KiB = 1024;
  const auto all_reduce = [&](std::size_t bytes, int ranks, bool reproducible = false) {
    return thresholds.all_reduce({.bytes = bytes, .world_size = ranks, .reproducible = reproducible});
  };
  for (const bool reproducible : {false, true}) {
    CHECK(all_reduce(64 * KiB, 2, reproducible) == AllReduceMotion::gathered);
    CHECK(all_reduce(128 * KiB, 2, reproducible) == AllReduceMotion::direct);
    CHECK(all_reduce(32 * KiB, 3, reproducible) == AllReduceMotion::gathered);
    CHECK(all_reduce(64 * KiB, 3, reproducible) == AllReduceMotion::direct);
    CHECK(all_reduce(4 * MiB, 4, reproducible) == AllReduceMotion::direct);
  }
  CHECK(all_reduce(8 * KiB, 4) == AllReduceMotion::recursive_doubling);
  CHECK(all_reduce(64 * KiB, 4) == AllReduceMotion::rabenseifner);
  CHECK(all_reduce(8 * KiB, 4, true) == AllReduceMotion::gathered);
  // Of 2 ranks a broadcast is one message, and an all-gather one each way, however long.
  for (const std::size_t bytes : {8 * KiB, 1 * MiB, 64 * MiB}) {
    CHECK(thresholds.broadcast({.bytes = bytes, .world_size = 2}) == allfold::BroadcastMotion::knomial);
    CHECK(thresholds.all_gather({.bytes = bytes, .world_size = 2}) == allfold::AllGatherMotion::pairwise);
  }
  const allfold::MessageQuery short_of_4{.bytes = 8 * KiB, .world_size = 4};
  const allfold::MessageQuery long_of_4{.bytes = 1 * MiB, .world_size = 4};
  CHECK(thresholds.all_gather(short_of_4) == allfold::AllGatherMotion::recursive_doubling);
  CHECK(thresholds.all_gather(long_of_4) == allfold::AllGatherMotion::pairwise);
  CHECK(thresholds.all_to_all(short_of_4) == allfold::AllToAllMotion::bruck);
  CHECK(thresholds.all_to_all(long_of_4) == allfold::AllToAllMotion::pairwise);
  CHECK(thresholds.reduce_scatter(short_of_4) == allfold::ReduceScatterMotion::recursive_halving);
  CHECK(thresholds.reduce_scatter(long_of_4) == allfold::ReduceScatterMotion::pairwise);
  CHECK(thresholds.broadcast(short_of_4) == allfold::BroadcastMotion::knomial);
  CHECK(thresholds.broadcast(long_of_4) == allfold::BroadcastMotion::scatter_all_gather);
}
