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

/// All collectives between three hosts, whose interfaces send by what `netem` says.
void over_network(const std::string& netem) {
  const Hosts hosts(3);
  for (int host = 0; host < hosts.count(); ++host) {
    REQUIRE(hosts.of(host).run({"sh", "-c", "tc qdisc add dev eth0 root netem " + netem}));
  }
  allfold_test::over_processes({3}, [&](const allfold::Environment& launched) {
    UcxRank rank(hosts.move_in(launched), "tcp");
    allfold_test::every_reduction<float>(rank, allfold::sum, 3001);
    allfold_test::every_reduction<std::int32_t>(rank, allfold::sum, 50021);
    allfold_test::every_move(rank, 70000);
  });
}

}  // namespace

TEST_CASE("collectives over a network with delay") {
  if (const std::string& why = Hosts::netem_refusal(); !why.empty()) SKIP_CASE(why.c_str());
  over_network("delay 2ms");
}

TEST_CASE("collectives over a network with loss") {
  if (const std::string& why = Hosts::netem_refusal(); !why.empty()) SKIP_CASE(why.c_str());
  over_network("loss 1%");
}
