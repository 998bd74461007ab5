// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <string>

#include <doctest/doctest.h>

#include <allfold/op/operators.hpp>

#include <support/network_namespaces.hpp>
#include <support/ranks.hpp>
#include <support/skip.hpp>
#include <support/ucx_collectives.hpp>
#include <support/ucx_ranks.hpp>

using allfold_test::Hosts;
using allfold_test::UcxRank;

namespace {

/// All collectives between three hosts, whose interfaces send by that queueing discipline.
void over_network(const std::string& discipline) {
  const Hosts hosts(3);
  for (int host = 0; host < hosts.count(); ++host) {
    REQUIRE(hosts.of(host).run({"sh", "-c", "tc qdisc add dev eth0 root " + discipline}));
  }
  allfold_test::over_processes({3}, [&](const allfold::Environment& launched) {
    UcxRank rank(hosts.move_in(launched), "tcp");
    allfold_test::every_reduction<float>(rank, allfold::sum, 3001);
    allfold_test::every_reduction<std::int32_t>(rank, allfold::sum, 50021);
    allfold_test::every_move(rank, 70000);
  });
}

#define SKIP_WITHOUT(discipline)                                                                        \
  do {                                                                                                  \
    if (const std::string why = Hosts::queue_refusal(discipline); !why.empty()) SKIP_CASE(why.c_str()); \
  } while (false)

}  // namespace

TEST_CASE("collectives over a network with delay") {
  SKIP_WITHOUT("netem delay 2ms");
  over_network("netem delay 2ms");
}

TEST_CASE("collectives over a network with loss") {
  SKIP_WITHOUT("netem loss 1%");
  over_network("netem loss 1%");
}
