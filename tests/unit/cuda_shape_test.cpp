// SPDX-License-Identifier: Apache-2.0
// Grids of calls with wide packets: every warp's worth of a vector has a lane, and no block more than its slots. Where
// slots lie, and how rounds use them.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/launch/cuda_shape.hpp>
#include <allfold/memory/device_channel.hpp>
#include <allfold/select/default_table.hpp>

#include <support/random.hpp>

using allfold::Algorithm;
using allfold::GridShape;
using allfold::WidePlan;

namespace {

std::size_t divide_up(std::size_t n, std::size_t by) { return (n + by - 1) / by; }

}  // namespace

TEST_CASE("wide packets: every round fits its slots, and its blocks have alike much to do") {
  for (const int ranks : {2, 4}) {
    const std::size_t slots = allfold::PacketSlots::wide(ranks).room;
    for (const Algorithm algorithm : {Algorithm::one_shot_packet, Algorithm::two_shot_packet}) {
      for (const int most_blocks : {1, 2, 5, 33, 44, 66, 132, 144}) {
        for (std::size_t bytes = 16; bytes < std::size_t{200} << 20; bytes += bytes / 7 / 16 * 16 + 16) {
          CAPTURE(bytes);
          const WidePlan plan = WidePlan::of(algorithm, bytes, ranks, most_blocks);
          REQUIRE(plan.round_bytes > 0);
          CHECK(plan.round_bytes % 16 == 0);
          CHECK(plan.round_bytes * (divide_up(bytes, plan.round_bytes) - 1) < bytes);
          const std::size_t last = bytes - plan.round_bytes * (divide_up(bytes, plan.round_bytes) - 1);
          for (const std::size_t round : {std::min(bytes, plan.round_bytes), last}) {
            const GridShape shape = plan.shape(round);
            CHECK(shape.blocks >= 1);
            CHECK(shape.blocks <= most_blocks);
            CHECK(shape.lanes >= 32);
            CHECK(shape.lanes % 32 == 0);
            CHECK(shape.lanes + allfold::watch_threads <= allfold::most_threads);
            const std::size_t warp_bytes = WidePlan::warp_bytes(plan.packets_of_lane);
            const std::size_t warps = divide_up(round, static_cast<std::size_t>(plan.parts) * warp_bytes);
            const auto of_pass = static_cast<std::size_t>(shape.blocks * shape.lanes / 32);
            const std::size_t passes = divide_up(warps, of_pass);
            CHECK(passes * static_cast<std::size_t>(shape.lanes * plan.packets_of_lane) <= slots);
            CHECK(passes == divide_up(warps, static_cast<std::size_t>(most_blocks) * allfold::packet_warps));
            CHECK_MESSAGE(passes * of_pass - warps < static_cast<std::size_t>(most_blocks) * passes,
                          "at most a warp of each block is idle in a pass");
          }
        }
      }
    }
  }
}

TEST_CASE("wide packets: two bits of 128 are tags, or four") {
  CHECK(WidePlan::warp_bytes(1) == 31 * 16);
  CHECK(WidePlan::warp_bytes(2) == 63 * 16);
}

TEST_CASE("wide packets: the built-in table's longest calls are of one round, with all blocks of an H200") {
  int rows = 0;
  for (const allfold::TuningRow& row : allfold::default_tuning_table(true)) {
    const bool has_wide = row.symmetric && allfold::PacketSlots::has_wide(row.world_size);
    if (!has_wide || !allfold::sends_packets(row.algorithm)) continue;
    CAPTURE(row.up_to_bytes);
    CHECK(WidePlan::of(row.algorithm, row.up_to_bytes, row.world_size, 132).round_bytes == row.up_to_bytes);
    ++rows;
  }
  CHECK(rows >= 2);
}

TEST_CASE("slots of packets overlap neither each other nor what lies behind them") {
  using allfold::DeviceLayout;
  using allfold::DevicePacket;
  using allfold::PacketSlots;
  using allfold::Stage;
  for (int ranks = 2; ranks <= allfold::max_window_ranks; ++ranks) {
    for (const int blocks : {1, 7, 132}) {
      CAPTURE(ranks);
      CAPTURE(blocks);
      const auto end_of = [&](const PacketSlots& slots) {
        std::size_t end = 0;
        for (int block = 0; block < blocks; ++block) {
          for (const unsigned set : {0U, 1U}) {
            for (const Stage stage : {Stage::inputs, Stage::results}) {
              for (unsigned source = 0; source < slots.sources; ++source) {
                CHECK(slots.begin(block, set, stage, source) >= end);
                end = slots.begin(block, set, stage, source) + slots.room;
              }
            }
          }
        }
        return end * sizeof(DevicePacket);
      };
      const DeviceLayout layout = DeviceLayout::of(ranks, blocks, 4096, 512);
      CHECK(layout.packets_offset + end_of(PacketSlots::of(ranks)) <= layout.wide_offset);
      CHECK(layout.wide_offset + end_of(PacketSlots::wide(ranks)) <= layout.staging_offset);
      CHECK(layout.staging_offset + layout.staging_bytes <= layout.inbox_offset);
      CHECK(PacketSlots::of(ranks).sources == static_cast<unsigned>(ranks));
      CHECK(PacketSlots::wide(ranks).sources == (!PacketSlots::has_wide(ranks) ? 0U
                                                 : ranks == 2                  ? 1U
                                                                               : static_cast<unsigned>(ranks)));
    }
  }
}

TEST_CASE("wide packets: no slot shows a round's tag before a peer has written it, however long the rounds are") {
  using allfold::PacketSlots;
  using allfold::Stage;
  allfold_test::Random random(allfold_test::test_seed());
  for (const int ranks : {2, 4}) {
    const PacketSlots slots = PacketSlots::wide(ranks);
    std::vector<std::uint32_t> tags(slots.block_stride, 0);  // what each slot of one block shows
    const auto at = [&](const allfold::WideRounds& rounds, Stage stage, unsigned source,
                        unsigned slot) -> std::uint32_t& {
      return tags[slots.begin(0, rounds.set(), stage, source) + slot];
    };
    allfold::WideRounds rounds{};
    for (int round = 0; round < 2000; ++round) {
      ++rounds.count;
      const unsigned longest = random.chance(30) ? slots.room : slots.room / 20;
      for (const Stage stage : {Stage::inputs, Stage::results}) {
        std::size_t old = 0;
        for (unsigned source = 0; source < slots.sources; ++source) {
          for (unsigned slot = 0; slot < slots.room; ++slot)
            old += at(rounds, stage, source, slot) == rounds.tag() ? 1 : 0;
        }
        REQUIRE(old == 0);
        const unsigned filled = random.chance(30) ? 0 : static_cast<unsigned>(random.below(longest + 1));
        const unsigned end = rounds.fill(stage, filled);
        for (unsigned source = 0; source < slots.sources; ++source) {
          // A peer may have less to send; what it leaves out of the round's slots is cleared as well.
          const unsigned sent = random.chance(50) ? filled : static_cast<unsigned>(random.below(filled + 1));
          for (unsigned slot = 0; slot < std::max(filled, end); ++slot) {
            at(rounds, stage, source, slot) = slot < sent ? rounds.tag() : 0;
          }
        }
      }
    }
  }
}
