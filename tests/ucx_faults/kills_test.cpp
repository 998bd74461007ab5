// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <doctest/doctest.h>
#include <ucp/api/ucp.h>

#include <allfold/policy/message_algorithm.hpp>

#include <support/network_namespaces.hpp>
#include <support/random.hpp>
#include <support/ranks.hpp>
#include <support/skip.hpp>
#include <support/ucx_faults.hpp>
#include <support/ucx_ranks.hpp>

using allfold_test::Fault;
using allfold_test::Hosts;
using allfold_test::strike;
using allfold_test::UcxRank;

namespace {

constexpr int times = 20;

/// 2 to 4 ranks, one of which, `first` or another, is killed within 30 ms of their calls.
Fault random_kill(allfold_test::Random& random, int first) {
  constexpr std::size_t sizes[] = {8, 64 << 10, 1 << 20, 16 << 20};
  Fault fault;
  fault.world_size = 2 + static_cast<int>(random.below(3));
  fault.bad = static_cast<int>(
      random.between(static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(fault.world_size - 1)));
  fault.bytes = random.pick(sizes);
  fault.motion = random.pick(allfold::all_reduce_motions);
  fault.after = std::chrono::microseconds(random.below(30000));
  return fault;
}

/// What UCX says of how it sends to another rank.
std::string protocols(const UcxRank& rank) {
  char* text = nullptr;
  std::size_t size = 0;
  std::FILE* const stream = ::open_memstream(&text, &size);
  EXPECT(stream != nullptr);
  ::ucp_ep_print_info(rank.worker().endpoint(1 - rank.rank()), stream);
  std::fclose(stream);
  std::string all(text, size);
  std::free(text);
  return all;
}

bool has_rendezvous(const UcxRank& rank) {
  const std::string all = protocols(rank);
  EXPECT(all.find("tag_send") != std::string::npos);
  return all.find("<rndv>") != std::string::npos || all.find("rendezvous") != std::string::npos;
}

bool copies_all(const UcxRank& rank) {
  const std::string all = protocols(rank);
  EXPECT(all.find("tag_send") != std::string::npos);
  return all.find("zcopy") == std::string::npos && all.find("zero-copy") == std::string::npos;
}

constexpr auto end_it = [](pid_t bad) { ::kill(bad, SIGKILL); };

}  // namespace

TEST_CASE("over TCP UCX sends nothing without a copy, which it may not survive, unless the user says so") {
  allfold_test::over_processes({2}, [](const allfold::Environment& environment) {
    {
      const UcxRank rank(environment, "tcp");
      EXPECT(copies_all(rank));
    }
    ::setenv("UCX_TCP_MAX_IOV", "6", 1);
    allfold::Environment again = environment;
    again.job += "-again";
    const UcxRank rank(again, "tcp");
    EXPECT(!copies_all(rank));
  });
}

TEST_CASE("without RDMA there is no rendezvous, which UCX may not survive, unless the user says so") {
  if (allfold::detail::has_rdma_device()) SKIP_CASE("the host has RDMA");
  for (const char* const ways : {"tcp", ""}) {
    allfold_test::over_processes({2}, [&](const allfold::Environment& environment) {
      {
        const UcxRank rank(environment, ways);
        EXPECT(!has_rendezvous(rank));
      }
      ::setenv("UCX_RNDV_THRESH", "64k", 1);
      allfold::Environment again = environment;
      again.job += "-again";
      const UcxRank rank(again, ways);
      EXPECT(has_rendezvous(rank));
    });
  }
}

TEST_CASE("a rank killed at any moment is named, and comes back: one host, what UCX takes there") {
  allfold_test::Random random(allfold_test::test_seed());
  for (int i = 0; i < times; ++i) {
    // Rank 0 has the socket at which all meet again.
    strike<allfold::PeerError>(
        random_kill(random, 1), "", true, [](const allfold::Environment& launched, int) { return launched; }, end_it);
  }
}

TEST_CASE("a rank killed at any moment is named, and comes back: hosts") {
  NEEDS_HOSTS();
  allfold_test::Random random(allfold_test::test_seed());
  for (int i = 0; i < times; ++i) {
    const Fault fault = random_kill(random, 0);
    const Hosts hosts(fault.world_size);
    strike<allfold::PeerError>(
        fault, "tcp", true,
        [&](const allfold::Environment& launched, int life) { return hosts.move_in(launched, 1, life); }, end_it);
  }
}
