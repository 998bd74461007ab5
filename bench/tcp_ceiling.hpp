// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The limit beside which a result over TCP stands: what a bare socket between two ranks takes.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <allfold/base/unique_fd.hpp>

#include "host_subject.hpp"
#include "peer_protocol.hpp"

namespace bench {

/// A socket between ranks 0 and 1 over the loopback, whose ends poll and never sleep. The other ranks have none.
class TcpPair {
 public:
  /// Collective.
  explicit TcpPair(Comm& comm) : comm_(comm) {
    double port = 0;
    allfold::UniqueFd listener;
    if (comm.rank() == 0) {
      listener.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_in at = loopback(0);
      socklen_t bytes = sizeof at;
      check(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0 &&
            ::listen(listener.get(), 1) == 0 &&
            ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&at), &bytes) == 0);
      port = ntohs(at.sin_port);
    }
    port = most_of(comm, {port})[0];
    if (comm.rank() == 0) {
      pollfd ready = {listener.get(), POLLIN, 0};
      check(::poll(&ready, 1, 10'000) == 1);
      fd_.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    } else if (comm.rank() == 1) {
      fd_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      const sockaddr_in at = loopback(static_cast<std::uint16_t>(port));
      check(::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
    }
    if (comm.rank() > 1) return;
    const int on = 1;
    check(::setsockopt(fd_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
  }

  /// Collective. Microseconds in which `bytes` go from one rank to the other: half of a ping-pong, the median of some
  /// batches.
  double one_way_us(void* memory, std::size_t bytes) {
    comm_.barrier();
    return most_of(comm_, {comm_.rank() <= 1 ? median_us(memory, bytes) : 0})[0];
  }

 private:
  static sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in at = {};
    at.sin_family = AF_INET;
    at.sin_port = htons(port);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return at;
  }
  static void check(bool ok) {
    if (!ok) throw std::runtime_error("allfold_perf: there is no TCP connection between two ranks of this host");
  }

  double median_us(void* memory, std::size_t bytes) {
    const long rounds = std::clamp(static_cast<long>((std::size_t{16} << 20) / (bytes + 16384)), 1L, 500L);
    std::vector<double> times;
    for (int batch = 0; batch < 7; ++batch) {
      const double us = time_us([&] {
        for (long i = 0; i < rounds; ++i) {
          if (comm_.rank() == 0) move(memory, bytes, true);
          move(memory, bytes, false);
          if (comm_.rank() == 1) move(memory, bytes, true);
        }
      });
      if (batch > 0) times.push_back(us / static_cast<double>(2 * rounds));  // the first opens TCP's window
    }
    return median(std::move(times));
  }

  void move(void* memory, std::size_t bytes, bool sends) const {
    for (std::size_t done = 0; done < bytes;) {
      char* const at = static_cast<char*>(memory) + done;
      const ssize_t n =
          sends ? ::send(fd_.get(), at, bytes - done, MSG_NOSIGNAL) : ::recv(fd_.get(), at, bytes - done, MSG_DONTWAIT);
      check(n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)));
      if (n > 0) done += static_cast<std::size_t>(n);
    }
  }

  Comm& comm_;
  allfold::UniqueFd fd_;
};

}  // namespace bench
