// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/allfold.hpp>

#include <support/ranks.hpp>

using namespace std::chrono_literals;
using Comm = allfold::Communicator<>;

namespace {

/// After a refusal, which touches no peer, everything works as before.
void expect_works(Comm& comm) {
  std::vector<int> x(10, 1);
  comm.all_reduce(x, allfold::sum);
  EXPECT(x == std::vector<int>(10, comm.world_size()));
}

}  // namespace

TEST_CASE("a null buffer is refused") {
  allfold_test::over_ranks({1, 2}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    std::vector<float> data(4);
    const std::span<float> null(static_cast<float*>(nullptr), 4);
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.all_reduce(null, allfold::sum), allfold::UsageError),
                                  {"all_reduce", "null"});
    EXPECT_THROWS_AS(comm.all_reduce(null, data, allfold::sum), allfold::UsageError);
    EXPECT_THROWS_AS(comm.all_reduce(data, null, allfold::sum), allfold::UsageError);
    expect_works(comm);
  });
}

TEST_CASE("an output of another size than the input is refused") {
  allfold_test::over_ranks({1, 2}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    std::vector<float> three(3);
    std::vector<float> four(4);
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.all_reduce(four, three, allfold::sum), allfold::UsageError),
                                  {"all_reduce", "3", "4"});
    EXPECT_THROWS_AS(comm.all_reduce(three, four, allfold::sum), allfold::UsageError);
    EXPECT_THROWS_AS(comm.all_reduce(std::span<float>(), four, allfold::sum), allfold::UsageError);
    expect_works(comm);
  });
}

TEST_CASE("buffers that overlap without being the same are refused") {
  allfold_test::over_ranks({1, 2}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    std::vector<float> data(20);
    const std::span<float> all(data);
    for (const std::size_t shift : {std::size_t{1}, std::size_t{9}}) {
      allfold_test::expect_contains(
          EXPECT_THROWS_AS(comm.all_reduce(all.subspan(0, 10), all.subspan(shift, 10), allfold::sum),
                           allfold::UsageError),
          {"all_reduce", "overlap"});
      EXPECT_THROWS_AS(comm.all_reduce(all.subspan(shift, 10), all.subspan(0, 10), allfold::sum), allfold::UsageError);
    }
    // Side by side is no overlap, and the same span twice is in place.
    comm.all_reduce(all.subspan(0, 10), all.subspan(10, 10), allfold::sum);
    comm.all_reduce(all, all, allfold::sum);
    expect_works(comm);
  });
}

TEST_CASE("no elements are fine") {
  allfold_test::over_ranks({1, 2, 3}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    std::vector<float> none;
    comm.all_reduce(none, allfold::sum);
    comm.all_reduce(std::span<const float>(), std::span<float>(), allfold::sum);
    auto empty = comm.allocate<float>(0);
    EXPECT(empty.size() == 0);
    comm.all_reduce(empty.span(), allfold::sum);
    std::vector<float> data(8, 1);
    comm.all_reduce(std::span<float>(data).subspan(8), allfold::sum);
    EXPECT(data == std::vector<float>(8, 1));
    expect_works(comm);
  });
}

TEST_CASE("wrong call options are refused") {
  allfold_test::over_ranks({2}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment, allfold::Options{.channels = 2});
    std::vector<float> data(4);
    EXPECT_THROWS_AS(comm.all_reduce(data, allfold::sum, {.channel = 2}), allfold::UsageError);
    EXPECT_THROWS_AS(comm.all_reduce(data, allfold::sum, {.channel = -1}), allfold::UsageError);
    comm.all_reduce(data, allfold::sum, {.channel = 1});
    expect_works(comm);
  });
}

TEST_CASE("symmetric memory starts as zeros, is aligned, and is a range") {
  allfold_test::over_ranks({1, 2, 8}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    auto x = comm.allocate<double>(1001);
    EXPECT(x.size() == 1001);
    EXPECT(x.span().data() == x.data());
    EXPECT(reinterpret_cast<std::uintptr_t>(x.data()) % 64 == 0);
    for (const double value : x) EXPECT(value == 0);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i);
    comm.all_reduce(x.span(), allfold::sum);
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT(x[i] == static_cast<double>(i) * comm.world_size());
  });
}

TEST_CASE("symmetric memory can be allocated and freed again and again") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    auto first = comm.allocate<int>(5);
    for (int round = 1; round <= 20; ++round) {
      auto x = comm.allocate<int>(static_cast<std::size_t>(round) * 700);
      for (int& value : x) value = round;
      comm.all_reduce(x.span(), allfold::sum);
      for (const int value : x) EXPECT(value == round * comm.world_size());
    }
    first[4] = 1;
    comm.all_reduce(first.span(), allfold::sum);
    EXPECT(first[4] == comm.world_size());
  });
}

TEST_CASE("every rank reaches every part through the array of peers") {
  allfold_test::over_ranks({1, 2, 3, 8}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    const auto me = static_cast<std::size_t>(comm.rank());
    const auto ranks = static_cast<std::size_t>(comm.world_size());
    auto x = comm.allocate<std::size_t>(ranks);
    EXPECT(x.serial() == 1);
    EXPECT(x.peers().size() == ranks);
    EXPECT(x.peers()[me] == x.data());
    for (std::size_t r = 0; r < ranks; ++r) x.peers()[r][me] = 100 * me + r;
    comm.barrier();
    for (std::size_t r = 0; r < ranks; ++r) {
      EXPECT(x[r] == 100 * r + me);
      EXPECT(x.peers()[r][me] == 100 * me + r);
    }
    auto moved = std::move(x);
    EXPECT(moved.peers().size() == ranks && moved.peers()[me] == moved.data());
    // NOLINTNEXTLINE(bugprone-use-after-move): what a move leaves is promised
    EXPECT(x.peers().empty() && x.data() == nullptr && x.serial() == 0);
    comm.barrier();
  });
}
