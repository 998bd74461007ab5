// SPDX-License-Identifier: Apache-2.0
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

TEST_CASE("collectives over a network that is narrow, late, and drops what does not fit") {
  // At most 30 kB wait at an interface, which is 0.6 ms; what is more is lost.
  const std::string narrow = "tbf rate 400mbit burst 16kb limit 30kb";
  if (const std::string why = Hosts::queue_refusal(narrow); !why.empty()) SKIP_CASE(why.c_str());
  const Hosts hosts(3);
  hosts.queue_by(narrow);
  allfold_test::over_processes({3}, [&](const allfold::Environment& launched) {
    UcxRank rank(hosts.move_in(launched), "tcp");
    allfold_test::every_reduction<float>(rank, allfold::sum, 3001);
    allfold_test::every_reduction<float>(rank, allfold::sum, 150001);
    allfold_test::every_move(rank, 70000);
  });
  // Something was dropped, or the case shows nothing.
  CHECK(hosts.have_lost_frames());
}
