// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <allfold/base/unique_fd.hpp>

#include <support/network_namespaces.hpp>
#include <support/ranks.hpp>
#include <support/skip.hpp>
#include <support/ucx_ranks.hpp>

using namespace std::chrono_literals;
using allfold_test::Hosts;
using allfold_test::UcxRank;

namespace {

/// Two hosts, of which the second has an interface eth1 that no other host is linked to, and uses it alone.
void cannot_meet(const Hosts& hosts) {
  hosts.of(1).run({"ip", "-batch", "-"},
                  "link add eth1 type veth peer name eth2\nlink set eth1 up\nlink set eth2 up\n"
                  "address add 10.88.0.1/24 dev eth1\n");
  allfold_test::over_processes(
      {2},
      [&](const allfold::Environment& launched) {
        if (launched.rank == 1) ::setenv("UCX_NET_DEVICES", "eth1", 1);
        const allfold::Environment environment = hosts.move_in(launched);
        const auto begin = allfold::Clock::now();
        std::string what = "nothing was thrown";
        try {
          const UcxRank rank(environment, "tcp", 5s, 1s);
        } catch (const allfold::Error& error) {
          what = error.what();
        }
        const auto took = allfold::Clock::now() - begin;
        if (took > 2s)
          throw std::runtime_error(allfold::concat({what, " (after ", allfold::milliseconds(took), " ms)"}));
        allfold_test::expect_contains(what, {"create: ", launched.rank == 0 ? "rank 1" : "rank 0"});
      },
      10s);
}

/// Makes a second link on the rank's worker, though the other rank makes none: throws, and names it.
void greet_in_vain(UcxRank& rank) {
  const auto exchanges = [](auto...) -> std::vector<std::string> {
    throw std::logic_error("nobody exchanges anything");
  };
  allfold::Meeting meeting("create", 0, 2, allfold::Deadline::after(300ms), exchanges);
  const std::vector<allfold::Identity> ranks(2, allfold::host_identity());
  const auto join = [&] { const allfold::UcxLink link(rank.worker(), meeting, ranks, {.communicator = 1}); };
  allfold_test::expect_contains(EXPECT_THROWS_AS(join(), allfold::TimeoutError), {"rank 1 cannot be reached"});
}

/// Lets one process wait for another.
class Bell {
 public:
  Bell() : fd_(::eventfd(0, EFD_CLOEXEC)) { REQUIRE(fd_); }
  void ring() const {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(fd_.get(), &one, sizeof one));
  }
  void wait() const {
    pollfd rung{fd_.get(), POLLIN, 0};
    EXPECT(::poll(&rung, 1, 20000) == 1);
  }

 private:
  allfold::UniqueFd fd_;
};

struct RingAtEnd {
  const Bell& bell;
  ~RingAtEnd() { bell.ring(); }
};

}  // namespace

TEST_CASE("a greeting that fails leaves those alone who share the worker") {
  allfold_test::over_processes({2}, [](const allfold::Environment& environment) {
    UcxRank rank(environment, "tcp");
    if (rank.rank() == 0) greet_in_vain(rank);
    if (rank.rank() == 1) std::this_thread::sleep_for(400ms);  // so that rank 0 has to wait, and looks at its peers
    for (int i = 0; i < 3; ++i) rank.barrier();
    EXPECT(!rank.link().failure());
  });
}

TEST_CASE("a greeting that fails behind what cannot be sent ends those who share the worker") {
  const Bell bell;
  allfold_test::over_processes({2}, [&](const allfold::Environment& environment) {
    UcxRank rank(environment, "tcp");
    if (rank.rank() == 1) return bell.wait();  // it takes nothing: what is sent to it fills the buffers on the way
    const RingAtEnd ring{bell};
    const std::vector<char> data(4096);
    auto calls = rank.endpoint("send");
    std::vector<allfold::UcxTransfer> sends;
    sends.reserve(10000);
    for (int step = 0; step < 10000; ++step) sends.push_back(calls.send(1, step, data.data(), data.size()));
    EXPECT(!sends.back().over());
    greet_in_vain(rank);
    EXPECT(rank.link().failed());
    EXPECT(sends.back().over() && !sends.back().ok());
    allfold_test::expect_contains(EXPECT_THROWS_AS(rank.barrier(), allfold::PeerError), {"barrier", "rank 1"});
  });
}

TEST_CASE("a rank at an address to which there is no route is named at rendezvous") {
  NEEDS_HOSTS();
  cannot_meet(Hosts(2));
}

TEST_CASE("a rank at an address from which no answer comes is named at rendezvous") {
  NEEDS_HOSTS();
  const Hosts hosts(2);
  hosts.of(0).run(
      {"ip", "-batch", "-"},
      "neighbour add 10.77.0.99 lladdr 02:00:00:00:00:99 dev eth0\nroute add 10.88.0.0/24 via 10.77.0.99\n");
  cannot_meet(hosts);
}

TEST_CASE("a forked child leaves its parent's link alone") {
  allfold_test::over_processes({2}, [](const allfold::Environment& environment) {
    for (const char* ways : {"tcp", ""}) {
      UcxRank rank(environment, ways);
      const pid_t child = ::fork();
      if (child == 0) {
        rank.~UcxRank();
        ::_exit(0);
      }
      int status = -1;
      EXPECT(::waitpid(child, &status, 0) == child && status == 0);
      for (int i = 0; i < 10; ++i) rank.barrier();
      EXPECT(!rank.link().failure());
    }
  });
}
