// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/algo/message/all_gather.hpp>
#include <allfold/algo/message/all_reduce.hpp>
#include <allfold/algo/message/all_to_all.hpp>
#include <allfold/algo/message/broadcast.hpp>
#include <allfold/algo/message/gather.hpp>
#include <allfold/algo/message/reduce.hpp>
#include <allfold/algo/message/reduce_scatter.hpp>
#include <allfold/algo/message/scatter.hpp>
#include <allfold/exec/host_reduction.hpp>
#include <allfold/op/operators.hpp>

#include <support/fields.hpp>
#include <support/oracle.hpp>
#include <support/ranks.hpp>
#include <support/simulated.hpp>
#include <support/ucx_ranks.hpp>

using allfold::Parts;
using allfold::Task;
using allfold::UcxEndpoint;
using allfold_test::fill;
using allfold_test::holds;
using allfold_test::UcxRank;
namespace message = allfold::message;

namespace {

using Bytes = std::vector<unsigned char>;

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

/// From messages that are copied at once to ones that UCX asks for first.
constexpr std::size_t sizes[] = {1, 100, 70000, 1100000};

template <class T>
bool near_or_same(const T& got, const T& want, bool exact) {
  if constexpr (std::is_floating_point_v<T>) {
    if (!exact) return std::fabs(got - want) <= 1e-4;
  }
  return allfold_test::same_bytes(got, want);
}

template <class T, class Op>
void every_reduction(UcxRank& rank, const Op& op, std::size_t count) {
  const int ranks = rank.world_size();
  const allfold::Reduction<Op, T> reduction{op};
  const allfold::MessageReduction erased = allfold::host_reduction(reduction);
  std::vector<T> in(count), out(count), want(count), operands(n(ranks));
  for (std::size_t i = 0; i < count; ++i) {
    for (int r = 0; r < ranks; ++r) operands[n(r)] = allfold_test::element<T>(7, r, i);
    in[i] = operands[n(rank.rank())];
    want[i] = allfold_test::expected<T>(op, std::span<const T>(operands));
  }
  const auto right = [&](const T* got, std::size_t begin, std::size_t size, bool reproducible) {
    for (std::size_t i = 0; i < size; ++i) {
      if (!near_or_same(got[i], want[begin + i], reproducible)) return false;
    }
    return true;
  };
  for (const auto motion : allfold::all_reduce_motions) {
    std::fill(out.begin(), out.end(), allfold_test::canary<T>());
    rank.run("all_reduce",
             [&](UcxEndpoint& e) { return message::all_reduce(e, motion, erased, in.data(), out.data(), count); });
    if (!right(out.data(), 0, count, is_reproducible(motion))) {
      allfold_test::throw_failure(std::string(name(motion)), __FILE__, __LINE__);
    }
  }
  for (const auto motion : allfold::reduce_motions) {
    const int root = ranks - 1;
    std::fill(out.begin(), out.end(), allfold_test::canary<T>());
    rank.run("reduce",
             [&](UcxEndpoint& e) { return message::reduce(e, motion, erased, in.data(), out.data(), count, root); });
    EXPECT(rank.rank() != root || right(out.data(), 0, count, motion != allfold::ReduceMotion::knomial));
  }
  for (const auto motion : allfold::reduce_scatter_motions) {
    const Parts parts = Parts::even(count, ranks, 1);
    rank.run("reduce_scatter",
             [&](UcxEndpoint& e) { return message::reduce_scatter(e, motion, erased, in.data(), out.data(), parts); });
    const allfold::Range mine = parts.of(rank.rank());
    EXPECT(right(out.data(), mine.begin, mine.size(), motion == allfold::ReduceScatterMotion::pairwise));
  }
}

void every_move(UcxRank& rank, std::size_t each) {
  const int ranks = rank.world_size();
  const int me = rank.rank();
  Bytes in(each), all(each * n(ranks)), from_all(each * n(ranks));
  fill(in, 0, each, me, 0);
  const auto all_hold = [&](const Bytes& bytes) {
    bool hold = true;
    for (int r = 0; r < ranks; ++r) hold = hold && holds(bytes, n(r) * each, each, r, 0);
    return hold;
  };
  for (const auto motion : allfold::all_gather_motions) {
    std::fill(all.begin(), all.end(), static_cast<unsigned char>(0));
    rank.run("all_gather", [&](UcxEndpoint& e) { return message::all_gather(e, motion, in.data(), all.data(), each); });
    EXPECT(all_hold(all));
  }
  for (const auto motion : allfold::all_to_all_motions) {
    for (int r = 0; r < ranks; ++r) fill(all, n(r) * each, each, me, r);
    rank.run("all_to_all",
             [&](UcxEndpoint& e) { return message::all_to_all(e, motion, all.data(), from_all.data(), each); });
    for (int r = 0; r < ranks; ++r) EXPECT(holds(from_all, n(r) * each, each, r, me));
  }
  for (int root = 0; root < ranks; ++root) {
    for (const auto motion : allfold::broadcast_motions) {
      Bytes data(each);
      if (me == root) fill(data, 0, each, root, 5);
      rank.run("broadcast", [&](UcxEndpoint& e) { return message::broadcast(e, motion, data.data(), each, root); });
      EXPECT(holds(data, 0, each, root, 5));
    }
    std::fill(all.begin(), all.end(), static_cast<unsigned char>(0));
    rank.run("gather", [&](UcxEndpoint& e) { return message::gather_knomial(e, in.data(), all.data(), each, root); });
    EXPECT(me != root || all_hold(all));
    Bytes back(each);
    rank.run("scatter",
             [&](UcxEndpoint& e) { return message::scatter_knomial(e, all.data(), back.data(), each, root); });
    EXPECT(back == in);
    std::fill(all.begin(), all.end(), static_cast<unsigned char>(0));
    rank.run("gather", [&](UcxEndpoint& e) {
      return message::gather_linear(e, in.data(), all.data(), Parts::equal(each), root);
    });
    EXPECT(me != root || all_hold(all));
    std::fill(back.begin(), back.end(), static_cast<unsigned char>(0));
    rank.run("scatter", [&](UcxEndpoint& e) {
      return message::scatter_linear(e, all.data(), back.data(), Parts::equal(each), root);
    });
    EXPECT(back == in);
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
    for (const std::size_t each : sizes) every_move(rank, each);
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
