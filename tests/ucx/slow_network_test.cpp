// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>

#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/op/operators.hpp>

#include <support/network_namespaces.hpp>
#include <support/random.hpp>
#include <support/ranks.hpp>
#include <support/skip.hpp>
#include <support/ucx_collectives.hpp>
#include <support/ucx_ranks.hpp>

using namespace std::chrono_literals;
using allfold_test::Hosts;
using allfold_test::UcxRank;
using allfold_test::Wire;

namespace {

/// A datagram socket of a host, for numbers: what the network does to them is what it does to all.
class Datagrams {
 public:
  Datagrams(const Hosts& hosts, int host) : address_(address_of(host)) {
    hosts.of(host).visit([&] { fd_.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)); });
    if (!fd_ || ::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_) != 0) {
      throw allfold::SystemError("test", errno, {"no socket of a host"});
    }
  }

  void send(const Datagrams& to, int number) const {
    const auto* const address = reinterpret_cast<const sockaddr*>(&to.address_);
    if (::sendto(fd_.get(), &number, sizeof number, 0, address, sizeof to.address_) != sizeof number) {
      throw allfold::SystemError("test", errno, {"could not send a datagram"});
    }
  }

  /// The number that comes next; -1: none has come for that long.
  int receive(std::chrono::milliseconds timeout) const {
    pollfd wait{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    int number = -1;
    if (::poll(&wait, 1, static_cast<int>(timeout.count())) == 1) ::recv(fd_.get(), &number, sizeof number, 0);
    return number;
  }

 private:
  static sockaddr_in address_of(int host) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(7007);
    ::inet_pton(AF_INET, Hosts::address(host).c_str(), &address.sin_addr);
    return address;
  }

  sockaddr_in address_;
  allfold::UniqueFd fd_;
};

/// Lets two hosts learn each other's Ethernet addresses, which may take a second on an interface that is new.
void introduce(const Datagrams& one, const Datagrams& other) {
  const auto end = allfold::Deadline::after(20s);
  do {
    one.send(other, 0);
  } while (other.receive(20ms) < 0 && !end.expired());
  while (other.receive(300ms) >= 0) continue;
}

/// How long a number takes to another host and back; the least of some.
allfold::Duration round_trip(const Hosts& hosts) {
  const Datagrams here(hosts, 0), there(hosts, 1);
  introduce(here, there);
  introduce(there, here);
  allfold::Duration least = 1h;
  for (int i = 0; i < 10; ++i) {
    const auto begin = allfold::Clock::now();
    here.send(there, i);
    there.send(here, there.receive(1s));
    if (here.receive(1s) == i) least = std::min<allfold::Duration>(least, allfold::Clock::now() - begin);
  }
  return least;
}

/// The numbers from 0 to `count` as they arrive at another host.
std::vector<int> sent_over(const Hosts& hosts, int count) {
  const Datagrams here(hosts, 0), there(hosts, 1);
  introduce(here, there);
  std::vector<int> arrived;
  for (int i = 0; i < count; ++i) {
    here.send(there, i);
    if (i % 100 != 99) continue;  // so many fit any socket
    for (int number = there.receive(300ms); number >= 0; number = there.receive(300ms)) arrived.push_back(number);
  }
  return arrived;
}

/// All collectives between three hosts.
void over_network(const Wire& wire) {
  const Hosts hosts(3, wire);
  allfold_test::over_processes({3}, [&](const allfold::Environment& launched) {
    UcxRank rank(hosts.move_in(launched), "tcp");
    allfold_test::every_reduction<float>(rank, allfold::sum, 3001);
    allfold_test::every_reduction<std::int32_t>(rank, allfold::sum, 50021);
    allfold_test::every_move(rank, 70000);
  });
  CHECK(hosts.have_lost_frames() == (wire.lost_per_mille > 0));
}

}  // namespace

TEST_CASE("a wire is as late, lossy and disorderly as it is said to be") {
  NEEDS_HOSTS();
  const Hosts late(2, {.delay = 3ms});
  const allfold::Duration round = round_trip(late);
  CHECK(round >= 6ms);
  CHECK(round < 1h);
  std::vector<int> arrived = sent_over(late, 100);
  CHECK(arrived.size() == 100);
  CHECK(std::is_sorted(arrived.begin(), arrived.end()));
  CHECK(!late.have_lost_frames());

  const Hosts lossy(2, {.lost_per_mille = 200, .seed = allfold_test::test_seed()});
  arrived = sent_over(lossy, 400);
  CHECK(arrived.size() < 380);  // 320 on average, with a deviation of 8
  CHECK(arrived.size() > 260);
  CHECK(lossy.have_lost_frames());

  const Hosts disorderly(2, {.delay = 2ms, .jitter = 1ms, .seed = allfold_test::test_seed()});
  arrived = sent_over(disorderly, 100);
  CHECK(arrived.size() == 100);
  CHECK(!std::is_sorted(arrived.begin(), arrived.end()));
}

TEST_CASE("collectives over a network with delay") {
  NEEDS_HOSTS();
  over_network({.delay = 2ms});
}

TEST_CASE("collectives over a network with loss") {
  NEEDS_HOSTS();
  over_network({.lost_per_mille = 10, .seed = allfold_test::test_seed()});
}

TEST_CASE("collectives over a network whose frames overtake one another") {
  NEEDS_HOSTS();
  over_network({.delay = 1ms, .jitter = 500us, .seed = allfold_test::test_seed()});
}
