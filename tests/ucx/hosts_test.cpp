// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include <doctest/doctest.h>

#include <allfold/op/operators.hpp>

#include <support/network_namespaces.hpp>
#include <support/ranks.hpp>
#include <support/skip.hpp>
#include <support/ucx_collectives.hpp>
#include <support/ucx_ranks.hpp>

using allfold_test::every_move;
using allfold_test::every_reduction;
using allfold_test::Hosts;
using allfold_test::UcxRank;

namespace {

/// Runs `body(UcxRank&)` over TCP, on `per_host` ranks of each host.
template <class Body>
void over_hosts(int count, int per_host, Body&& body) {
  const Hosts hosts(count);
  allfold_test::over_processes({count * per_host}, [&](const allfold::Environment& launched) {
    UcxRank rank(hosts.move_in(launched, per_host), "tcp");
    body(rank);
  });
}

}  // namespace

TEST_CASE("every reduction between hosts has the oracle's bits") {
  NEEDS_HOSTS();
  for (const int count : {2, 3, 4}) {
    over_hosts(count, 1, [](UcxRank& rank) {
      every_reduction<float>(rank, allfold::sum, 1);
      every_reduction<float>(rank, allfold::sum, 150001);
      every_reduction<std::int32_t>(rank, allfold::premul_sum(3), 20011);
    });
  }
}

TEST_CASE("every motion of bytes between hosts") {
  NEEDS_HOSTS();
  for (const int count : {2, 3, 4}) {
    over_hosts(count, 1, [](UcxRank& rank) {
      for (const std::size_t each : allfold_test::message_sizes) every_move(rank, each);
      rank.barrier();
    });
  }
}

TEST_CASE("two ranks on each of two hosts") {
  NEEDS_HOSTS();
  over_hosts(2, 2, [](UcxRank& rank) {
    every_reduction<float>(rank, allfold::sum, 3001);
    every_move(rank, 70000);
  });
}
