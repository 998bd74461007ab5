// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/algo/message/all_gather.hpp>
#include <allfold/algo/message/barrier.hpp>
#include <allfold/algo/message/broadcast.hpp>
#include <allfold/base/error.hpp>
#include <allfold/exec/simulated_network.hpp>

#include <support/simulated.hpp>

using allfold::Disturbance;
using allfold::ErrorCode;
using allfold::NetworkModel;
using allfold::Parts;
using allfold::SimulatedEndpoint;
using allfold::SimulatedNetwork;
using allfold::SimulatedRun;
using allfold::Task;
namespace message = allfold::message;

namespace {

constexpr NetworkModel plain{.latency_us = 10,
                             .overhead_us = 1,
                             .gap_us = 0,
                             .us_per_byte = 0.01,
                             .eager_bytes = 2000,
                             .copy_us_per_byte = 0,
                             .fold_us_per_byte = 0};

/// Rank 0 sends rank 1 so many messages of so many bytes.
SimulatedRun one_way(const NetworkModel& model, int messages, std::size_t bytes) {
  SimulatedNetwork network(2, model);
  std::vector<char> from(bytes), to(bytes);
  return network.run([&](SimulatedEndpoint& e) -> Task<bool> {
    allfold::InFlight<SimulatedEndpoint> flight;
    for (int i = 0; i < messages; ++i) {
      flight.add(e.rank() == 0 ? e.send(1, i, from.data(), bytes) : e.receive(0, i, to.data(), bytes));
    }
    co_return co_await flight.all();
  });
}

/// Rank 1 waits for what rank 0 never sends; each rank passes the news on to the next.
Task<bool> relay(SimulatedEndpoint& e) {
  if (e.rank() != 0) {
    auto news = e.receive(e.rank() - 1, 0, nullptr, 0);
    if (!co_await allfold::ended(news)) co_return false;
  }
  if (e.rank() + 1 == e.world_size()) co_return true;
  auto on = e.send(e.rank() + 1, 0, nullptr, 0);
  co_return co_await allfold::ended(on);
}

}  // namespace

TEST_CASE("times are those of the model") {
  CHECK(one_way(plain, 1, 100).time_us == doctest::Approx(1 + 10 + 1 + 1));
  CHECK(one_way(plain, 2, 1000).time_us == doctest::Approx(1 + 10 + 10 + 10 + 1));  // one port, one after another
  NetworkModel gap = plain;
  gap.gap_us = 5;
  CHECK(one_way(gap, 3, 0).time_us == doctest::Approx(1 + 2 * 5 + 10 + 1));
  NetworkModel asks = plain;
  asks.eager_bytes = 0;
  CHECK(one_way(asks, 1, 1000).time_us == doctest::Approx(1 + 3 * 10 + 10 + 1));  // asks, is let, sends
  CHECK(one_way(plain, 2, 1000).bytes == 2000);
  CHECK(one_way(plain, 2, 1000).max_messages == 2);
}

TEST_CASE("a rank's port is one, in each direction") {
  const auto star = [](bool outward) {
    SimulatedNetwork network(3, plain);
    return network
        .run([&](SimulatedEndpoint& e) -> Task<bool> {
          char bytes[2000] = {};
          allfold::InFlight<SimulatedEndpoint> flight;
          for (int peer = 1; peer < 3; ++peer) {
            const bool centre = e.rank() == 0;
            if (!centre && peer != e.rank()) continue;
            const int other = centre ? peer : 0;
            char* const at = bytes + (centre ? 1000 * (peer - 1) : 0);
            flight.add(centre == outward ? e.send(other, 0, at, 1000) : e.receive(other, 0, at, 1000));
          }
          co_return co_await flight.all();
        })
        .time_us;
  };
  CHECK(star(true) == doctest::Approx(1 + 10 + 10 + 10 + 1));
  CHECK(star(false) == doctest::Approx(1 + 10 + 10 + 10 + 1));
}

TEST_CASE("copies occupy the rank, or what works beside it") {
  const auto time = [](bool offloads) {
    NetworkModel model = plain;
    model.copy_us_per_byte = 0.03;
    model.offloads = offloads;
    SimulatedNetwork network(2, model);
    char from[1000] = {1, 2, 3}, to[2][1000] = {};
    const SimulatedRun run = network.run([&](SimulatedEndpoint& e) -> Task<bool> {
      if (!co_await e.copy(to[e.rank()], from, 1000)) co_return false;
      if (to[e.rank()][2] != 3) co_return false;
      co_return co_await message::barrier_dissemination(e);
    });
    CHECK(run.ok());
    const SimulatedRun both = network.run([&](SimulatedEndpoint& e) -> Task<bool> {
      // Two of them are one after another, and a barrier passes meanwhile where they are done beside the rank.
      const auto copies = [&](SimulatedEndpoint& of) -> Task<bool> {
        if (!co_await of.copy(to[of.rank()], from, 500)) co_return false;
        co_return co_await of.copy(to[of.rank()] + 500, from + 500, 500);
      };
      co_return co_await allfold::SideBySide(copies(e), message::barrier_dissemination(e));
    });
    CHECK(both.ok());
    CHECK(run.time_us == doctest::Approx(30 + 12));
    return both.time_us;
  };
  CHECK(time(false) == doctest::Approx(30 + 12));
  CHECK(time(true) == doctest::Approx(30));
}

TEST_CASE("bytes occupy those who send and receive them") {
  NetworkModel busy = plain;
  busy.send_us_per_byte = 0.02;
  busy.receive_us_per_byte = 0.03;
  // The first byte goes at once; the second message goes when all of the first have been handed over.
  CHECK(one_way(busy, 1, 1000).time_us == doctest::Approx(1 + 10 + 10 + 1 + 30));
  CHECK(one_way(busy, 2, 1000).time_us == doctest::Approx(1 + 10 + 10 + 2 * (1 + 30)));
  busy.receive_us_per_byte = 0;
  CHECK(one_way(busy, 2, 1000).time_us == doctest::Approx(1 + 20 + 1 + 10 + 10 + 1));
}

TEST_CASE("long messages have a rate of their own") {
  NetworkModel slow = plain;
  slow.eager_bytes = 500;
  slow.long_us_per_byte = 0.05;
  CHECK(one_way(slow, 1, 1000).time_us == doctest::Approx(1 + 3 * 10 + 50 + 1));
  CHECK(one_way(slow, 1, 500).time_us == doctest::Approx(1 + 10 + 5 + 1));
}

TEST_CASE("ranks that share cores take turns") {
  const auto time = [](int ranks, int cores) {
    NetworkModel model = plain;
    model.copy_us_per_byte = 0.03;
    model.cores = cores;
    model.turn_us = 5;
    SimulatedNetwork network(ranks, model, {}, false);
    return network
        .run([&](SimulatedEndpoint& e) -> Task<bool> {
          void* const memory = SimulatedNetwork::no_memory();
          co_return co_await e.copy(allfold::at_byte(memory, 1), memory, 1000);
        })
        .time_us;
  };
  CHECK(time(4, 0) == doctest::Approx(30));
  CHECK(time(4, 4) == doctest::Approx(30));
  CHECK(time(4, 2) == doctest::Approx(30 + 5 + 30));
  CHECK(time(3, 1) == doctest::Approx(30 + 2 * (5 + 30)));
  // A rank goes on where it was, and pays for no turn.
  NetworkModel model = plain;
  model.cores = 2;
  model.turn_us = 5;
  CHECK(one_way(model, 2, 1000).time_us == one_way(plain, 2, 1000).time_us);
}

TEST_CASE("two networks of the same are alike") {
  const auto time = [](std::uint64_t seed) {
    SimulatedNetwork network(9, plain, allfold_test::uneven(seed));
    return network.run([](SimulatedEndpoint& e) { return message::barrier_dissemination(e); }).time_us;
  };
  CHECK(time(1) == time(1));
  CHECK(time(1) != time(2));
}

TEST_CASE("a barrier of thousands of ranks in one thread") {
  SimulatedNetwork network(4096, plain, {}, false);
  const SimulatedRun run = network.run([](SimulatedEndpoint& e) { return message::barrier_dissemination(e); });
  CHECK(run.ok());
  CHECK(run.messages == 12 * 4096);
  CHECK(run.time_us == doctest::Approx(12 * (1 + 10 + 1)));
}

TEST_CASE("without payload no buffer is touched, and the time is the same") {
  double times[2];
  for (const bool payload : {false, true}) {
    SimulatedNetwork network(5, plain, {}, payload);
    std::vector<std::vector<char>> out(5, std::vector<char>(payload ? 5000 : 0));
    times[payload ? 1 : 0] =
        network
            .run([&](SimulatedEndpoint& e) {
              void* const at = payload ? out[static_cast<std::size_t>(e.rank())].data() : SimulatedNetwork::no_memory();
              return message::all_gather_bruck(e, at, at, 1000);
            })
            .time_us;
  }
  CHECK(times[0] == times[1]);
}

TEST_CASE("several collectives are in flight at once, begun in another order on each rank") {
  SimulatedNetwork network(6, plain, allfold_test::uneven(3));
  std::vector<std::vector<unsigned char>> out(18, std::vector<unsigned char>(6 * 50));
  const SimulatedRun run = network.run(
      [&](SimulatedEndpoint& e) {
        auto& mine = out[static_cast<std::size_t>(e.call() * 6 + e.rank())];
        allfold_test::fill(mine, static_cast<std::size_t>(e.rank()) * 50, 50, e.rank(), e.call());
        return message::all_gather_ring(e, mine.data() + e.rank() * 50, mine.data(), Parts::equal(50));
      },
      3);
  allfold_test::check_run(run, "three at once");
  for (std::size_t i = 0; i < out.size(); ++i) {
    for (int r = 0; r < 6; ++r) {
      CHECK(allfold_test::holds(out[i], static_cast<std::size_t>(r) * 50, 50, r, static_cast<int>(i / 6)));
    }
  }
}

TEST_CASE("a collective that ran before allocates nothing") {
  SimulatedNetwork network(8, plain);
  std::vector<std::vector<char>> out(8, std::vector<char>(8 * 64));
  std::vector<std::size_t> allocations;
  const SimulatedRun run = network.run([&](SimulatedEndpoint& e) -> Task<bool> {
    for (int round = 0; round < 8; ++round, e.next()) {
      auto& mine = out[static_cast<std::size_t>(e.rank())];
      if (!co_await message::all_gather_bruck(e, mine.data(), mine.data(), 64)) co_return false;
      e.next();
      if (!co_await message::barrier_dissemination(e)) co_return false;
      if (e.rank() == 0) allocations.push_back(e.frames().allocations());
    }
    co_return true;
  });
  allfold_test::check_run(run, "eight rounds");
  REQUIRE(allocations.size() == 8);
  CHECK(allocations[7] == allocations[1]);
  CHECK(allocations[1] > 0);
}

TEST_CASE("a rank that never comes is named by all, from wherever they wait") {
  for (const int world_size : {2, 3, 8, 17}) {
    for (const int absent : {0, world_size / 2, world_size - 1}) {
      Disturbance disturbance;
      disturbance.absent = {absent};
      disturbance.deadline_us = 1000;
      SimulatedNetwork network(world_size, plain, disturbance);
      std::vector<std::vector<char>> out(static_cast<std::size_t>(world_size),
                                         std::vector<char>(static_cast<std::size_t>(world_size) * 3000));
      const SimulatedRun run = network.run([&](SimulatedEndpoint& e) {
        auto* const at = out[static_cast<std::size_t>(e.rank())].data();
        return message::all_gather_ring(e, at, at, Parts::equal(3000));
      });
      REQUIRE(run.failure.has_value());
      CHECK(run.failure->source == absent);
      CHECK(run.failure->by != absent);
      CHECK(run.failed_ranks == world_size - 1);
      CHECK(run.failure->code == ErrorCode::timeout);
      CHECK_THROWS_AS(run.failure->raise(), allfold::TimeoutError);
    }
  }
}

TEST_CASE("a failure says what happened, who is to blame, and what to do") {
  Disturbance disturbance;
  disturbance.absent = {0};
  SimulatedNetwork network(4, plain, disturbance);
  const SimulatedRun run = network.run(relay);
  REQUIRE(run.failure.has_value());
  CHECK_THROWS_WITH_AS(
      run.failure->raise(),
      "allfold: rank 1/4: simulated collective: rank 0 did not arrive in time at step 0: it never came; "
      "try a longer deadline, or see what keeps rank 0",
      allfold::TimeoutError);
}

TEST_CASE("a cut link is told from a rank that is late") {
  for (const std::size_t bytes : {std::size_t{10}, std::size_t{5000}}) {
    Disturbance disturbance;
    disturbance.cut = {{2, 3}};
    disturbance.deadline_us = 5000;
    SimulatedNetwork network(6, plain, disturbance);
    std::vector<std::vector<char>> out(6, std::vector<char>(6 * bytes));
    const SimulatedRun run = network.run([&](SimulatedEndpoint& e) {
      auto* const at = out[static_cast<std::size_t>(e.rank())].data();
      return message::all_gather_ring(e, at, at, Parts::equal(bytes));
    });
    REQUIRE(run.failure.has_value());
    CHECK(run.failure->code == ErrorCode::peer);
    CHECK(run.failure->source + run.failure->by == 5);
    CHECK(run.failed_ranks >= 5);  // rank 2 may have all that it needs
    CHECK_THROWS_AS(run.failure->raise(), allfold::PeerError);
  }
}

TEST_CASE("ranks that wait for one another are found out, without a deadline") {
  SimulatedNetwork network(3, plain);
  const SimulatedRun run = network.run([](SimulatedEndpoint& e) -> Task<bool> {
    auto news = e.receive(allfold::ring_rank(e.rank(), 1, 3), 0, nullptr, 0);
    if (!co_await allfold::ended(news)) co_return false;
    auto on = e.send(allfold::ring_rank(e.rank(), -1, 3), 0, nullptr, 0);
    co_return co_await allfold::ended(on);
  });
  REQUIRE(run.failure.has_value());
  CHECK(run.failure->what.find("the ranks wait for one another") != std::string::npos);
  CHECK(run.failed_ranks == 3);
}

TEST_CASE("sends that are awaited before receives are found out where messages are long") {
  const auto body = [](SimulatedEndpoint& e) -> Task<bool> {
    char from[100] = {}, to[100];
    auto departure = e.send(1 - e.rank(), 0, from, 100);
    if (!co_await allfold::ended(departure)) co_return false;
    auto arrival = e.receive(1 - e.rank(), 0, to, 100);
    co_return co_await allfold::ended(arrival);
  };
  CHECK(SimulatedNetwork(2, plain).run(body).ok());
  NetworkModel asks = plain;
  asks.eager_bytes = 0;
  CHECK_FALSE(SimulatedNetwork(2, asks).run(body).ok());
}

TEST_CASE("a message of another length than expected is a mismatch") {
  for (const std::size_t eager : {std::size_t{0}, std::size_t{1000}}) {
    NetworkModel model = plain;
    model.eager_bytes = eager;
    SimulatedNetwork network(3, model);
    std::vector<std::vector<char>> data(3, std::vector<char>(100));
    const SimulatedRun run = network.run([&](SimulatedEndpoint& e) {
      return message::broadcast_knomial(e, data[static_cast<std::size_t>(e.rank())].data(), e.rank() == 2 ? 90 : 100,
                                        0);
    });
    REQUIRE(run.failure.has_value());
    CHECK(run.failure->code == ErrorCode::mismatch);
    CHECK(run.failure->source == 0);
    CHECK(run.failure->by == 2);
    CHECK(run.failure->what.find("sent 100 bytes at step 0; expected 90") != std::string::npos);
    CHECK_THROWS_AS(run.failure->raise(), allfold::MismatchError);
  }
}

TEST_CASE("what breaks the rules of an endpoint is refused") {
  const auto refused = [](auto&& body) {
    SimulatedNetwork network(2, plain);
    try {
      (void)network.run(body);
    } catch (const allfold::UsageError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };

  CHECK(has(refused([](SimulatedEndpoint& e) -> Task<bool> {
              auto out = e.send(2, 0, nullptr, 0);
              co_return co_await allfold::ended(out);
            }),
            "expected another rank of 2"));
  CHECK(has(refused([](SimulatedEndpoint& e) -> Task<bool> {
              auto a = e.receive(1 - e.rank(), 0, nullptr, 0);
              auto b = e.receive(1 - e.rank(), 0, nullptr, 0);
              co_return co_await allfold::ended(a, b);
            }),
            "cannot be told apart"));
  CHECK(has(refused([](SimulatedEndpoint& e) -> Task<bool> {
              auto out = e.send(1 - e.rank(), 0, nullptr, 0);
              co_return co_await allfold::ended(out);
            }),
            "was never received"));
  CHECK(has(refused([](SimulatedEndpoint& e) -> Task<bool> {
              if (e.rank() == 0) (void)e.receive(1, 0, nullptr, 0);
              co_return true;
            }),
            "did not await its message of step 0 with rank 1"));
  CHECK_THROWS_AS(SimulatedNetwork(0), allfold::UsageError);
  CHECK_THROWS_AS(SimulatedNetwork(4097), allfold::UsageError);
  CHECK_THROWS_AS(SimulatedNetwork(2, plain, {.absent = {2}}), allfold::UsageError);
}

TEST_CASE("what a body throws on one rank ends all, and is thrown by run") {
  SimulatedNetwork network(4, plain);
  CHECK_THROWS_WITH_AS(network.run([](SimulatedEndpoint& e) -> Task<bool> {
    if (e.rank() == 2) throw std::runtime_error("rank 2 had enough");
    co_return co_await message::barrier_dissemination(e);
  }),
                       "rank 2 had enough", std::runtime_error);
}
