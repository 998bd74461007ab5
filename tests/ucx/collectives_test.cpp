// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/algo/message/all_reduce.hpp>
#include <allfold/algo/message/broadcast.hpp>
#include <allfold/exec/host_reduction.hpp>
#include <allfold/op/operators.hpp>

#include <support/ranks.hpp>
#include <support/ucx_collectives.hpp>
#include <support/ucx_ranks.hpp>

using allfold::Task;
using allfold::UcxEndpoint;
using allfold_test::every_move;
using allfold_test::every_reduction;
using allfold_test::UcxRank;
namespace message = allfold::message;

namespace {

std::size_t n(int ranks) { return static_cast<std::size_t>(ranks); }

/// Runs `body(UcxRank&)` over TCP, and over what UCX takes on one host.
template <class Body>
void over_ucx(std::initializer_list<int> world_sizes, Body&& body) {
  for (const char* ways : {"tcp", ""}) {
    allfold_test::over_processes(world_sizes, [&](const allfold::Environment& environment) {
      UcxRank rank(environment, ways);
      body(rank);
    });
  }
}

}  // namespace

TEST_CASE("every reduction over UCX has the oracle's bits") {
  over_ucx({1, 2, 3, 4}, [](UcxRank& rank) {
    every_reduction<float>(rank, allfold::sum, 1);
    every_reduction<float>(rank, allfold::sum, 3001);
    every_reduction<float>(rank, allfold::sum, 150001);
    every_reduction<std::int32_t>(rank, allfold::premul_sum(3), 20011);
    every_reduction<std::uint8_t>(rank, allfold::max, 777);
  });
}

TEST_CASE("every motion of bytes over UCX") {
  over_ucx({1, 2, 3, 4}, [](UcxRank& rank) {
    for (const std::size_t each : allfold_test::message_sizes) every_move(rank, each);
    rank.barrier();
  });
}

TEST_CASE("several calls are under way at once, and are driven in another order on each rank") {
  over_ucx({2, 3}, [](UcxRank& rank) {
    constexpr int calls = 12;
    const allfold::Reduction<allfold::Sum, std::int64_t> reduction{allfold::sum};
    const allfold::MessageReduction erased = allfold::host_reduction(reduction);
    std::deque<UcxEndpoint> endpoints;
    std::vector<std::vector<std::int64_t>> data;
    std::vector<Task<bool>> tasks;
    for (int call = 0; call < calls; ++call) {
      endpoints.push_back(rank.endpoint("all_reduce"));
      data.emplace_back(call % 2 == 0 ? 10 : 90000, call * 100 + rank.rank());
      const auto motion = allfold::all_reduce_motions[call % 6];
      tasks.push_back(message::all_reduce(endpoints.back(), motion, erased, data.back().data(), data.back().data(),
                                          data.back().size()));
    }
    for (int call = 0; call < calls; ++call) endpoints[n(call)].start(tasks[n(call)]);
    for (int call = 0; call < calls; ++call) {
      const std::size_t next = n(rank.rank() % 2 == 0 ? call : calls - 1 - call);
      endpoints[next].drive(tasks[next], allfold::Deadline::after(std::chrono::seconds(20)));
    }
    const int ranks = rank.world_size();
    for (int call = 0; call < calls; ++call) {
      const std::int64_t want = call * 100 * ranks + ranks * (ranks - 1) / 2;
      EXPECT(data[n(call)].front() == want && data[n(call)].back() == want);
    }
  });
}

TEST_CASE("calls that ran before allocate nothing") {
  over_ucx({2}, [](UcxRank& rank) {
    std::vector<unsigned char> data(200000);
    const auto call = [&] {
      rank.run("broadcast", [&](UcxEndpoint& e) {
        return message::broadcast(e, allfold::BroadcastMotion::scatter_all_gather, data.data(), data.size(), 0);
      });
    };
    for (int i = 0; i < 3; ++i) call();
    const std::size_t before = rank.link().pool().allocations();
    for (int i = 0; i < 10; ++i) call();
    EXPECT(rank.link().pool().allocations() == before);
  });
}
