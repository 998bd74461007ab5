// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <allfold/base/unique_fd.hpp>
#include <allfold/store/common.hpp>
#include <allfold/store/tcp_protocol.hpp>

namespace allfold::detail {

/// An IPv4 or IPv6 address and port.
struct TcpAddress {
  sockaddr_storage storage = {};
  socklen_t bytes = 0;

  TcpAddress() = default;
  explicit TcpAddress(const addrinfo& from) noexcept : bytes(from.ai_addrlen) {
    std::memcpy(&storage, from.ai_addr, from.ai_addrlen);
  }

  const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() noexcept { return reinterpret_cast<sockaddr*>(&storage); }
  sockaddr_in v4() const noexcept {
    sockaddr_in out;
    std::memcpy(&out, &storage, sizeof out);
    return out;
  }
  sockaddr_in6 v6() const noexcept {
    sockaddr_in6 out;
    std::memcpy(&out, &storage, sizeof out);
    return out;
  }
  std::uint16_t port() const noexcept { return ntohs(storage.ss_family == AF_INET6 ? v6().sin6_port : v4().sin_port); }
  bool loopback() const noexcept {
    if (storage.ss_family == AF_INET) return (ntohl(v4().sin_addr.s_addr) >> 24) == 127;
    const sockaddr_in6 address = v6();
    return IN6_IS_ADDR_LOOPBACK(&address.sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&address.sin6_addr) && address.sin6_addr.s6_addr[12] == 127);
  }

  /// 0.0.0.0 and :: mean any address to a server; this is the one by which its own host reaches it.
  void replace_wildcard() noexcept {
    if (storage.ss_family == AF_INET) {
      sockaddr_in address = v4();
      if (address.sin_addr.s_addr == htonl(INADDR_ANY)) address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      std::memcpy(&storage, &address, sizeof address);
    } else if (storage.ss_family == AF_INET6) {
      sockaddr_in6 address = v6();
      if (IN6_IS_ADDR_UNSPECIFIED(&address.sin6_addr)) address.sin6_addr = in6addr_loopback;
      std::memcpy(&storage, &address, sizeof address);
    }
  }

  /// The address in digits, without the port.
  ALLFOLD_COLD std::string host() const {
    char out[INET6_ADDRSTRLEN + 20] = "?";
    ::getnameinfo(get(), bytes, out, sizeof out, nullptr, 0, NI_NUMERICHOST);
    return out;
  }

  ALLFOLD_COLD std::string text() const {
    const std::string digits = host();
    return storage.ss_family == AF_INET6 ? concat({"[", digits, "]:", int{port()}})
                                         : concat({digits, ":", int{port()}});
  }
};

/// All addresses of `host`. An address in digits is never looked up. None on failure, and then `problem` says why.
/// A name is looked up by the resolver of the C library, whose own time-outs (resolv.conf) apply.
class TcpAddresses {
 public:
  ALLFOLD_COLD TcpAddresses(const std::string& host, std::uint16_t port, std::string& problem) {
    addrinfo hints = {};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    const std::string service = concat({int{port}});
    int status = ::getaddrinfo(host.c_str(), service.c_str(), &hints, &list_);
    if (status == EAI_NONAME) {
      hints.ai_flags = AI_NUMERICSERV;
      status = ::getaddrinfo(host.c_str(), service.c_str(), &hints, &list_);
    }
    if (status == 0) return;
    list_ = nullptr;
    const char* const why = status == EAI_SYSTEM ? std::strerror(errno) : ::gai_strerror(status);
    problem = concat({"cannot resolve ", host, ": ", why});
  }
  ~TcpAddresses() {
    if (list_ != nullptr) ::freeaddrinfo(list_);
  }
  TcpAddresses(const TcpAddresses&) = delete;
  TcpAddresses& operator=(const TcpAddresses&) = delete;

  const addrinfo* first() const noexcept { return list_; }

 private:
  addrinfo* list_ = nullptr;
};

inline TcpAddress local_address(int fd) noexcept {
  TcpAddress out;
  out.bytes = sizeof out.storage;
  if (::getsockname(fd, out.get(), &out.bytes) != 0) out.bytes = 0;
  return out;
}

inline TcpAddress peer_address(int fd) noexcept {
  TcpAddress out;
  out.bytes = sizeof out.storage;
  if (::getpeername(fd, out.get(), &out.bytes) != 0) out.bytes = 0;
  return out;
}

inline void set_option(int fd, int level, int name, int value) noexcept {
  ::setsockopt(fd, level, name, &value, sizeof value);
}

/// Opens a socket that listens at the first address of `host` that allows it.
ALLFOLD_COLD inline UniqueFd listen_at(const Where& where, const std::string& host, std::uint16_t port) {
  std::string problem;
  int number = EADDRNOTAVAIL;
  const TcpAddresses addresses(host, port, problem);
  if (addresses.first() == nullptr)
    throw UsageError(where, {problem, "; expected an address of this host to listen at"});
  for (const addrinfo* one = addresses.first(); one != nullptr; one = one->ai_next) {
    const TcpAddress address(*one);
    UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (fd) set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    if (fd && ::bind(fd.get(), address.get(), address.bytes) == 0 && ::listen(fd.get(), SOMAXCONN) == 0) return fd;
    number = errno;
    problem = address.text();
  }
  throw SystemError(where, number,
                    {"cannot listen at ", problem,
                     ", which must be an address of this host with a free "
                     "port (try port 0, or share one TcpStore among communicators)"});
}

/// Connects without blocking past the deadline. No socket on failure, and then `number` is an errno.
ALLFOLD_COLD inline UniqueFd connect_to(const TcpAddress& address, Deadline deadline, int& number) {
  UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) {
    number = errno;
    return fd;
  }
  set_option(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  number = 0;
  if (::connect(fd.get(), address.get(), address.bytes) != 0) {
    number = errno;
    if (number == EINPROGRESS || number == EINTR) {
      pollfd one = {fd.get(), POLLOUT, 0};
      int ready;
      do {
        ready = ::poll(&one, 1, deadline.remaining_ms());
      } while (ready < 0 && errno == EINTR);
      socklen_t bytes = sizeof number;
      number = ETIMEDOUT;
      if (ready > 0) ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &number, &bytes);
    }
  }
  if (number == 0) {
    // With nobody listening, a retried connection to a port of the ephemeral range may at last meet itself.
    const TcpAddress here = local_address(fd.get()), there = peer_address(fd.get());
    if (here.bytes == there.bytes && std::memcmp(&here.storage, &there.storage, here.bytes) == 0) number = ECONNREFUSED;
  }
  if (number != 0) fd.reset();
  return fd;
}

/// Random bytes that nobody can guess.
ALLFOLD_COLD inline std::string tcp_nonce() {
  std::string out(tcp_nonce_bytes, '\0');
  for (std::size_t done = 0; done < out.size();) {
    const ssize_t n = ::getrandom(out.data() + done, out.size() - done, 0);
    if (n > 0) {
      done += static_cast<std::size_t>(n);
    } else if (errno != EINTR) {
      throw SystemError("TcpStore", errno, {"cannot draw random bytes"});
    }
  }
  return out;
}

}  // namespace allfold::detail
