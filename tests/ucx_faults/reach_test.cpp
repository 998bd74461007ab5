// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

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

}  // namespace

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
