// SPDX-License-Identifier: Apache-2.0
// Grids of calls with wide packets: every warp's worth of a vector has a lane, and no block more than its slots.
#include <cstddef>
#include <initializer_list>

#include <doctest/doctest.h>

#include <allfold/launch/cuda_shape.hpp>
#include <allfold/memory/device_channel.hpp>

using allfold::Algorithm;
using allfold::GridShape;

namespace {

std::size_t divide_up(std::size_t n, std::size_t by) { return (n + by - 1) / by; }

}  // namespace

TEST_CASE("wide packets: a call of one round fits its slots, on any number of blocks") {
  for (const int ranks : {2, 4}) {
    const std::size_t slots = allfold::DeviceLayout::wide_packets(ranks);
    for (const int parts : {1, ranks}) {
      for (const int of_lane : {1, 2}) {
        for (const int most_blocks : {1, 2, 5, 33, 44, 66, 132, 144}) {
          const std::size_t limit = allfold::wide_round_bytes(parts, of_lane, ranks, most_blocks);
          const std::size_t warp_bytes = allfold::wide_warp_bytes(of_lane);
          REQUIRE(limit > 0);
          CHECK(limit % 16 == 0);
          for (std::size_t bytes = 16; bytes <= limit; bytes += bytes / 7 / 16 * 16 + 16) {
            CAPTURE(bytes);
            const GridShape shape = allfold::wide_shape(bytes, parts, of_lane, most_blocks);
            CHECK(shape.blocks >= 1);
            CHECK(shape.blocks <= most_blocks);
            CHECK(shape.lanes >= 32);
            CHECK(shape.lanes + allfold::watch_threads <= allfold::most_threads);
            const std::size_t warps = divide_up(bytes, static_cast<std::size_t>(parts) * warp_bytes);
            const std::size_t of_pass = static_cast<std::size_t>(shape.blocks * shape.lanes / 32);
            const std::size_t passes = divide_up(warps, of_pass);
            CHECK(passes * static_cast<std::size_t>(shape.lanes * of_lane) <= slots);
            // No block has more than a pass more to do than another, and no pass is without work.
            CHECK((passes - 1) * of_pass < warps);
          }
        }
      }
    }
  }
}

TEST_CASE("wide packets: what goes over the link besides data") {
  CHECK(allfold::wide_warp_bytes(1) == 31 * 16);
  CHECK(allfold::wide_warp_bytes(2) == 63 * 16);
}

TEST_CASE("the longest default calls with wide packets are of one round, on one channel of an H200") {
  CHECK(allfold::wide_round_bytes(1, 2, 2, 132) >= std::size_t{12} << 20);
  CHECK(allfold::wide_round_bytes(4, 2, 4, 132) >= std::size_t{10} << 20);
}
