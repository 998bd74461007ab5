// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <csignal>
#include <cstddef>

#include <doctest/doctest.h>
#include <unistd.h>

#include <support/network_namespaces.hpp>
#include <support/random.hpp>
#include <support/skip.hpp>
#include <support/ucx_faults.hpp>

using namespace std::chrono_literals;
using allfold_test::Fault;
using allfold_test::Hosts;
using allfold_test::strike;
using allfold_test::Wire;

namespace {

constexpr std::size_t sizes[] = {8, std::size_t{64} << 20};

/// Killed in the end, or it would be waited for.
void stop_for_good(pid_t bad) {
  ::kill(bad, SIGSTOP);
  ::usleep(2500000);
  ::kill(bad, SIGKILL);
}

/// The bad rank comes back unless it has survived.
template <class Error>
void strike_host(const Fault& fault, auto&& act, const Wire& wire = {}) {
  const Hosts hosts(fault.world_size, wire);
  strike<Error>(
      fault, "tcp", !fault.survives,
      [&](const allfold::Environment& launched, int life) { return hosts.move_in(launched, 1, life); },
      [&](pid_t bad) { act(hosts, bad); });
}

}  // namespace

TEST_CASE("a rank that is killed on another host ends the others' calls, which name it") {
  NEEDS_HOSTS();
  for (const std::size_t bytes : sizes) {
    for (const int world_size : {2, 4}) {
      strike_host<allfold::PeerError>({.world_size = world_size, .bad = world_size - 1, .bytes = bytes},
                                      [](const Hosts&, pid_t bad) { ::kill(bad, SIGKILL); });
    }
  }
}

TEST_CASE("a rank that is stopped on another host ends the others' calls at the deadline") {
  NEEDS_HOSTS();
  for (const int world_size : {2, 3}) {
    const std::size_t bytes = sizes[world_size - 2];  // the longer ones fill the sockets of the stopped rank
    strike_host<allfold::TimeoutError>(
        {.world_size = world_size, .bad = world_size - 1, .bytes = bytes, .timeout = 500ms},
        [](const Hosts&, pid_t bad) { stop_for_good(bad); });
  }
}

TEST_CASE("a host whose interface goes down ends the calls of all, which name it") {
  NEEDS_HOSTS();
  for (const std::size_t bytes : sizes) {
    for (const int world_size : {2, 3}) {
      const int bad = world_size - 1;
      strike_host<allfold::TimeoutError>(
          {.world_size = world_size, .bad = bad, .bytes = bytes, .timeout = 500ms, .survives = true},
          [bad](const Hosts& hosts, pid_t) { hosts.take_down(bad); });
    }
  }
}

TEST_CASE("a network that loses everything of one host ends the calls of all, which name it") {
  NEEDS_HOSTS();
  for (const std::size_t bytes : sizes) {
    for (const int world_size : {2, 4}) {
      const int bad = world_size - 1;
      strike_host<allfold::TimeoutError>(
          {.world_size = world_size, .bad = bad, .bytes = bytes, .timeout = 500ms, .survives = true},
          [bad](const Hosts& hosts, pid_t) { hosts.lose_all(bad); });
    }
  }
}

TEST_CASE("the same over a network that is slow, lossy and disorderly") {
  NEEDS_HOSTS();
  const Wire wire{.delay = 2ms, .jitter = 1ms, .lost_per_mille = 5, .seed = allfold_test::test_seed()};
  const std::size_t bytes = 64 << 10;
  strike_host<allfold::TimeoutError>(
      {.world_size = 3, .bad = 2, .bytes = bytes, .timeout = 2s, .after = 50ms, .survives = true},
      [](const Hosts& hosts, pid_t) { hosts.lose_all(2); }, wire);
  strike_host<allfold::PeerError>(
      {.world_size = 3, .bad = 2, .bytes = bytes, .after = 50ms}, [](const Hosts&, pid_t bad) { ::kill(bad, SIGKILL); },
      wire);
}

TEST_CASE("a rank that is stopped on the same host ends the others' calls at the deadline, over shared memory") {
  const Fault fault{.world_size = 3, .bad = 1, .bytes = sizes[1], .timeout = 500ms};
  strike<allfold::TimeoutError>(
      fault, "", true, [](const allfold::Environment& launched, int) { return launched; },
      [](pid_t bad) { stop_for_good(bad); });
}
