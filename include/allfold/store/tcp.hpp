// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>

#include <allfold/base/unique_fd.hpp>
#include <allfold/policy/store.hpp>
#include <allfold/store/common.hpp>
#include <allfold/store/tcp_client.hpp>
#include <allfold/store/tcp_protocol.hpp>
#include <allfold/store/tcp_server.hpp>
#include <allfold/store/tcp_socket.hpp>

namespace allfold {

/// How a TcpStore is reached, and on the one rank that serves it, how it is served.
struct TcpStoreOptions {
  /// The server's host, a name or an IPv4 or IPv6 address, and port. A server's port 0 takes any free one.
  std::string host = "127.0.0.1";
  std::uint16_t port = 0;
  /// Serve the store too. One rank does.
  bool serve = false;
  /// Server: the address to listen at. Empty: `host` if that is a loopback address, else 127.0.0.1. Name one, or
  /// 0.0.0.0 or :: for all, to be reached from other hosts; whoever reaches the port can then use the store, unless
  /// there is a secret.
  std::string bind_address;
  /// Both sides prove that they know it before anything else is said. It keeps strangers out; what is said
  /// afterwards is neither encrypted nor signed.
  std::string secret;
  /// Server: a socket that listens already, instead of `host`, `port` and `bind_address`. It is duplicated, set
  /// not to block, and stays the caller's.
  int listening_socket = -1;
  /// Server: what it grants to its clients.
  TcpStoreLimits limits;
  /// For messages.
  int rank = -1;
  int world_size = 0;
  /// Each rank joins a server once. A rank that comes again means the next store at the same place, and waits until
  /// rank 0 serves that. (So ranks may leave one store and meet in the next without waiting for one another.)
  bool join_once = false;
};

/// A store that one rank serves over TCP, in a thread; every rank, that one too, is its client.
/// Thread safe: several threads may use one object, and a wait does not hold up the others. Movable; moved from, it
/// may only be assigned or destroyed. Forked children must not use it.
/// The server ends with the object that serves: then, or if its process dies, the other ranks' calls throw PeerError
/// at once. Keep it until all ranks are done. A port serves one store at a time, but a listening socket, which
/// communicators made from one Environment share, may serve several.
/// Cost: one round trip a call; a thousand clients need as many descriptors on the serving rank (RLIMIT_NOFILE).
class TcpStore {
 public:
  using policy_category = store_tag;

  /// Serves if told so, then connects. A connection that is refused is tried again until the deadline.
  /// @throws TimeoutError if nobody serves by then; UsageError if options contradict each other or the secrets
  /// differ; PeerError if something else answers or the server is full; SystemError if it cannot listen.
  ALLFOLD_COLD explicit TcpStore(TcpStoreOptions options, Deadline deadline = default_store_deadline()) {
    const Where where("TcpStore", options.rank, options.world_size);
    detail::TcpClient::Peer peer;
    peer.rank = options.rank;
    peer.world_size = options.world_size;
    peer.join_once = options.join_once;
    if (options.serve) {
      UniqueFd listener = adopt_or_listen(options, where);
      server_ = std::make_unique<detail::TcpServer>(std::move(listener), options.secret, options.limits, where);
      detail::TcpAddress address = server_->address();
      options.port = address.port();
      address.replace_wildcard();
      peer.host = address.host();
    } else if (options.port == 0) {
      throw UsageError(where, {"no port to connect to; expected TcpStoreOptions::port to be the server's, got 0"});
    } else {
      peer.host = std::move(options.host);
    }
    port_ = peer.port = options.port;
    peer.secret = std::move(options.secret);
    client_ = std::make_unique<detail::TcpClient>(std::move(peer), deadline);
  }

  /// The store of a job. Rank 0 serves it at Environment::meeting_host and meeting_port (a name or address of its
  /// own host, loopback included: then no other host can reach it), or on Environment::listening_socket. Each rank's
  /// n-th call joins the n-th store that rank 0 serves.
  static TcpStore connect(const Environment& environment, Deadline deadline) {
    TcpStoreOptions options;
    options.host = options.bind_address = environment.meeting_host;
    options.port = environment.meeting_port;
    options.secret = environment.secret;
    options.serve = environment.rank == 0;
    options.rank = environment.rank;
    options.world_size = environment.world_size;
    options.listening_socket = environment.listening_socket;
    if (options.serve && options.listening_socket < 0) {
      const std::lock_guard lock(environment.listener->mutex);
      UniqueFd& socket = environment.listener->socket;
      if (!socket) socket = adopt_or_listen(options, Where("TcpStore", options.rank, options.world_size));
      options.listening_socket = socket.get();
    }
    options.join_once = true;
    return TcpStore(std::move(options), deadline);
  }

  /// The server's port.
  std::uint16_t port() const noexcept { return port_; }

  /// Replaces the value of `key`.
  /// @throws UsageError if either is longer than the server allows; PeerError if the server is gone or has no room.
  /// After a TimeoutError it is unknown whether it took effect. Both hold for every call.
  void set(std::string_view key, std::string_view value, Deadline deadline = default_store_deadline()) {
    call("TcpStore::set", detail::TcpOp::set, 0, {key, value}, deadline);
  }

  /// The value of `key`, once it exists.
  /// @throws TimeoutError if it does not by the deadline.
  std::string get(std::string_view key, Deadline deadline = default_store_deadline()) {
    return call("TcpStore::get", detail::TcpOp::get, deadline.remaining_ms(), {key}, deadline);
  }

  /// Waits until all `keys` exist.
  /// @throws TimeoutError if they do not by the deadline.
  void wait(std::span<const std::string> keys, Deadline deadline = default_store_deadline()) {
    const std::vector<std::string_view> texts(keys.begin(), keys.end());
    client_->call("TcpStore::wait", detail::TcpOp::wait, deadline.remaining_ms(), texts, deadline);
  }

  /// Adds `n` to the decimal number at `key` (absent: 0) and returns the sum.
  /// @throws UsageError if the value is no number, or the sum exceeds 64 bits.
  std::int64_t add(std::string_view key, std::int64_t n, Deadline deadline = default_store_deadline()) {
    const std::string sum = call("TcpStore::add", detail::TcpOp::add, n, {key}, deadline);
    return detail::TcpReader{sum}.integer<std::int64_t>();
  }

  /// Whether all `keys` exist now.
  bool check(std::span<const std::string> keys, Deadline deadline = default_store_deadline()) {
    const std::vector<std::string_view> texts(keys.begin(), keys.end());
    return client_->call("TcpStore::check", detail::TcpOp::check, 0, texts, deadline) == "\1";
  }

  /// Removes `key`; returns whether it existed.
  bool erase(std::string_view key, Deadline deadline = default_store_deadline()) {
    return call("TcpStore::erase", detail::TcpOp::erase, 0, {key}, deadline) == "\1";
  }

  /// Sets `desired` if the value is `expected` (an absent key equals the empty string); returns the value afterwards
  /// (empty: absent).
  std::string compare_set(std::string_view key, std::string_view expected, std::string_view desired,
                          Deadline deadline = default_store_deadline()) {
    return call("TcpStore::compare_set", detail::TcpOp::compare_set, 0, {key, expected, desired}, deadline);
  }

 private:
  ALLFOLD_COLD std::string call(const char* operation, detail::TcpOp op, std::int64_t number,
                                std::initializer_list<std::string_view> texts, Deadline deadline) {
    return client_->call(operation, op, number, {texts.begin(), texts.size()}, deadline);
  }

  ALLFOLD_COLD static UniqueFd adopt_or_listen(const TcpStoreOptions& options, const Where& where) {
    if (options.listening_socket < 0) {
      std::string host = options.bind_address;
      if (host.empty()) {
        std::string problem;
        const detail::TcpAddresses addresses(options.host, options.port, problem);
        const addrinfo* const first = addresses.first();
        host = first != nullptr && detail::TcpAddress(*first).loopback() ? options.host : "127.0.0.1";
      }
      return detail::listen_at(where, host, options.port);
    }
    UniqueFd copy(::fcntl(options.listening_socket, F_DUPFD_CLOEXEC, 0));
    if (!copy) throw SystemError(where, errno, {"cannot duplicate the listening socket ", options.listening_socket});
    // Listening again is how a longer queue is asked for; and a socket that cannot listen is found out here.
    if (::listen(copy.get(), SOMAXCONN) != 0 ||
        ::fcntl(copy.get(), F_SETFL, ::fcntl(copy.get(), F_GETFL) | O_NONBLOCK) != 0) {
      throw SystemError(where, errno, {"cannot listen on the socket ", options.listening_socket});
    }
    return copy;
  }

  std::unique_ptr<detail::TcpServer> server_;  // first, so that it ends after its own client
  std::unique_ptr<detail::TcpClient> client_;
  std::uint16_t port_ = 0;
};
static_assert(connectable_store<TcpStore>);

}  // namespace allfold
