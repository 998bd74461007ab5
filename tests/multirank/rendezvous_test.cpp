// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <allfold/allfold.hpp>

#include <support/ranks.hpp>

using namespace std::chrono_literals;
using Comm = allfold::Communicator<>;

namespace {

const allfold::Options impatient{.rendezvous_timeout = 700ms};

/// Far above `impatient`, and far below a hang.
constexpr auto bounded = 30s;

void expect_works(Comm& comm) {
  std::vector<int> x(3, comm.rank() + 1);
  comm.all_reduce(x, allfold::sum);
  const int want = comm.world_size() * (comm.world_size() + 1) / 2;
  EXPECT(x == std::vector<int>(3, want));
}

/// The error that create gives, in bounded time.
std::string refusal_of(const allfold::Environment& environment) {
  const auto begin = std::chrono::steady_clock::now();
  std::string message = EXPECT_THROWS_AS(Comm::create(environment, impatient), allfold::Error);
  EXPECT(std::chrono::steady_clock::now() - begin < bounded);
  return message;
}

}  // namespace

TEST_CASE("every rank knows its place") {
  allfold_test::over_ranks(allfold_test::every_world_size, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    EXPECT(comm.rank() == environment.rank);
    EXPECT(comm.world_size() == environment.world_size);
    expect_works(comm);
  });
}

TEST_CASE("a rank outside of the world is refused") {
  for (const auto& [rank, world_size] : {std::pair{2, 2}, std::pair{-1, 2}, std::pair{0, 0}, std::pair{0, 9}}) {
    allfold::Environment environment;
    environment.rank = rank;
    environment.world_size = world_size;
    CAPTURE(environment.rank);
    CAPTURE(environment.world_size);
    CHECK_THROWS_AS(Comm::create(environment, impatient), allfold::UsageError);
  }
}

TEST_CASE("ranks that disagree on the world size") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    allfold::Environment wrong = environment;
    if (environment.rank == 1) ++wrong.world_size;
    allfold_test::expect_contains(refusal_of(wrong), {"world size"});
  });
}

TEST_CASE("ranks that disagree on the options") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    allfold::Options options = impatient;
    if (environment.rank == 1) options.channels = 2;
    allfold_test::expect_contains(EXPECT_THROWS_AS(Comm::create(environment, options), allfold::Error), {"channels"});
  });
}

TEST_CASE("a rank that is taken twice") {
  for (const allfold::Ranks ranks : {allfold::Ranks::processes, allfold::Ranks::threads}) {
    const auto body = [](const allfold::Environment& environment) {
      allfold::Environment own = environment;
      own.world_size = 2;
      if (own.rank == 2) own.rank = 1;
      Comm comm = Comm::create(own, impatient);
    };
    const auto begin = std::chrono::steady_clock::now();
    int refused = 0;
    for (const allfold::Outcome& outcome : allfold::launch_outcomes(3, body, {.ranks = ranks})) {
      CHECK_FALSE(outcome.late);
      if (!outcome.ok()) ++refused;
      if (!outcome.ok()) CHECK(outcome.error.find("allfold: rank ") == 0);
    }
    CHECK(refused >= 1);
    CHECK(std::chrono::steady_clock::now() - begin < bounded);
  }
}

TEST_CASE("a rank that ends before the rendezvous is named") {
  allfold_test::over_ranks({2, 3, 8}, [](const allfold::Environment& environment) {
    if (environment.rank == 1) return;
    allfold_test::expect_contains(refusal_of(environment), {"rank 1", "create"});
  });
}

TEST_CASE("without rank 0, who serves the store, the others give up in time") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    if (environment.rank == 0) return;
    allfold_test::expect_contains(refusal_of(environment), {"allfold: ", "127.0.0.1"});
  });
}

TEST_CASE("a store that accepts and never answers") {
  const allfold::UniqueFd silent(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  REQUIRE(::bind(silent.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0);
  REQUIRE(::listen(silent.get(), 8) == 0);
  REQUIRE(::getsockname(silent.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
  allfold::Environment environment;
  environment.rank = 1;
  environment.world_size = 2;
  environment.meeting_port = ntohs(address.sin_port);
  const std::string message = refusal_of(environment);
  CAPTURE(message);
  CHECK(message.find("127.0.0.1") != std::string::npos);
}

TEST_CASE("create again, and again, in the same processes") {
  allfold_test::over_ranks({1, 2, 4}, [](const allfold::Environment& environment) {
    for (int round = 0; round < 5; ++round) {
      Comm comm = Comm::create(environment, allfold::Options{.rendezvous_timeout = 20s});
      expect_works(comm);
    }
  });
}

TEST_CASE("two communicators side by side share a store") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    allfold::TcpStore store = allfold::TcpStore::connect(environment, allfold::Deadline::after(bounded));
    Comm first = Comm::create(environment, store);
    Comm second = Comm::create(environment, store);
    for (int round = 0; round < 10; ++round) {
      expect_works(second);
      expect_works(first);
    }
  });
}

TEST_CASE("after a failure, create again and go on") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    std::vector<float> x(environment.rank == 0 ? 4 : 5);
    EXPECT_THROWS_AS(comm.all_reduce(x, allfold::sum), allfold::MismatchError);
    EXPECT_THROWS_AS(comm.barrier(), allfold::Error);
    comm = Comm::create(environment, allfold::Options{.rendezvous_timeout = 20s});
    comm.status();
    expect_works(comm);
  });
}

TEST_CASE("after a refused rendezvous, create again") {
  allfold_test::over_ranks({2}, [](const allfold::Environment& environment) {
    allfold::Options options = impatient;
    options.channels = environment.rank + 1;
    EXPECT_THROWS_AS(Comm::create(environment, options), allfold::Error);
    Comm comm = Comm::create(environment, allfold::Options{.rendezvous_timeout = 20s});
    expect_works(comm);
  });
}

TEST_CASE("ranks meet in a directory") {
  char path[] = "/tmp/allfold-rendezvous-XXXXXX";
  REQUIRE(::mkdtemp(path) != nullptr);
  for (const allfold::Ranks ranks : {allfold::Ranks::processes, allfold::Ranks::threads}) {
    const auto body = [](const allfold::Environment& environment) {
      auto comm = allfold::Communicator<allfold::FileStore>::create(environment);
      std::vector<int> x{1};
      comm.all_reduce(x, allfold::sum);
      EXPECT(x[0] == 3);
    };
    allfold::launch(3, body, {.ranks = ranks, .directory = path});
  }
  CHECK(std::system(("rm -r " + std::string(path)).c_str()) == 0);
}

TEST_CASE("threads meet in a store object that they share") {
  allfold::HashStore store;
  allfold_test::over_threads({1, 2, 4}, [&store](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<allfold::HashStore>::create(environment, store);
    std::vector<int> x{1};
    comm.all_reduce(x, allfold::sum);
    EXPECT(x[0] == environment.world_size);
  });
}
