// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <cstdint>
#include <exception>
#include <string>
#include <utility>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <allfold/base/config.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/store/tcp_session.hpp>
#include <allfold/store/tcp_socket.hpp>

namespace allfold::detail {

/// Serves a TcpCore to the sockets of one listening socket, in a thread of its own, until it is destroyed.
class TcpServer {
 public:
  /// Takes over `listener`, which listens.
  /// @throws UsageError if the limits contradict each other; SystemError if the system is out of descriptors or
  /// threads.
  ALLFOLD_COLD TcpServer(UniqueFd listener, std::string secret, const TcpStoreLimits& limits, const Where& where)
      : core_(std::move(secret), limits), listener_(std::move(listener)), owner_(::getpid()) {
    check(limits, where);
    address_ = local_address(listener_.get());
    wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    if (!wake_ || !epoll_ || !watch(wake_.get(), EPOLL_CTL_ADD, EPOLLIN, &wake_) ||
        !watch(listener_.get(), EPOLL_CTL_ADD, EPOLLIN, &listener_)) {
      throw SystemError(where, errno, {"cannot watch the listening socket"});
    }
    // The thread takes no signals: they are for the program's own threads.
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    const int status = ::pthread_create(&thread_, nullptr, &TcpServer::enter, this);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (status != 0) throw SystemError(where, status, {"cannot start the server's thread"});
  }
  TcpServer(const TcpServer&) = delete;
  TcpServer& operator=(const TcpServer&) = delete;

  /// Sends what is under way, for a second at most, and ends every connection.
  ALLFOLD_COLD ~TcpServer() {
    if (::getpid() != owner_) return;  // a forked child has the object, but not the thread
    const std::uint64_t one = 1;
    while (::write(wake_.get(), &one, sizeof one) < 0 && errno == EINTR) {
    }
    ::pthread_join(thread_, nullptr);
  }

  /// Where it listens.
  const TcpAddress& address() const noexcept { return address_; }

 private:
  ALLFOLD_COLD static void check(const TcpStoreLimits& limits, const Where& where) {
    constexpr std::size_t longest = std::size_t{1} << 30;
    if (limits.key_bytes > longest || limits.value_bytes > longest) {
      throw UsageError(where, {"TcpStoreLimits are too large; expected key_bytes and value_bytes up to ", longest,
                               ", got ", limits.key_bytes, " and ", limits.value_bytes});
    }
    const std::size_t least = longest_request(limits) + 262144;
    if (limits.client_buffered_bytes < least || limits.buffered_bytes < limits.client_buffered_bytes) {
      throw UsageError(
          where, {"TcpStoreLimits leave no room for one request; expected client_buffered_bytes of at least ", least,
                  " and no more than buffered_bytes, got ", limits.client_buffered_bytes, " and ",
                  limits.buffered_bytes, "; try a smaller value_bytes"});
    }
  }

  static void* enter(void* self) {
    static_cast<TcpServer*>(self)->run();
    return nullptr;
  }

  bool watch(int fd, int operation, std::uint32_t events, void* what) noexcept {
    epoll_event event = {};
    event.events = events;
    event.data.ptr = what;
    return ::epoll_ctl(epoll_.get(), operation, fd, &event) == 0;
  }

  ALLFOLD_COLD void run() noexcept {
    epoll_event events[64];
    while (!(stopping_ && core_.sessions() == 0)) {
      const Clock::time_point now = Clock::now();
      if (now >= core_.next_expiry()) core_.expire(now);
      if (now >= accept_again_) resume_accepting();
      settle(now);
      if (stopping_ && core_.sessions() == 0) break;
      const Deadline next = Deadline(core_.next_expiry()).sooner(Deadline(accept_again_));
      const bool timed = next.at() != Clock::time_point::max();
      const int n = ::epoll_wait(epoll_.get(), events, 64, timed ? next.remaining_ms() : -1);
      if (n < 0 && errno != EINTR) break;
      for (int i = 0; i < n; ++i) {
        if (events[i].data.ptr == &wake_) {
          stop();
        } else if (events[i].data.ptr == &listener_) {
          accept();
        } else {
          receive(*static_cast<TcpSession*>(events[i].data.ptr), events[i].events);
        }
      }
    }
    listener_.reset();
  }

  /// A session stays allocated until `settle`, so that a later event of the same batch may still name it.
  ALLFOLD_COLD void receive(TcpSession& session, std::uint32_t events) noexcept {
    if (session.dropped) return;
    try {
      if ((events & EPOLLIN) != 0 && core_.wants_input(session)) {
        const ssize_t n = ::recv(session.socket.get(), chunk_, sizeof chunk_, MSG_DONTWAIT);
        if (n > 0) {
          core_.feed(session, {chunk_, static_cast<std::size_t>(n)}, Clock::now());
          if (core_.step_back()) pause_accepting();
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
          core_.drop(session);
        }
      } else if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
        core_.drop(session);
      }
      if ((events & EPOLLOUT) != 0) send(session, Clock::now());
    } catch (const std::exception&) {
      core_.drop(session);  // out of memory: this client goes, the others stay
    }
  }

  ALLFOLD_COLD void settle(Clock::time_point now) noexcept {
    while (TcpSession* session = core_.next_touched()) {
      try {
        send(*session, now);
      } catch (const std::exception&) {
        core_.drop(*session);
      }
      session->touched = false;
      if (session->dropped || (session->closing && session->out.empty())) {
        end(*session);
      } else {
        rewatch(*session);
      }
    }
  }

  /// A child that was forked meanwhile may hold a copy of the socket, which would keep the connection and, worse, its
  /// place in the epoll set alive. So both are ended by name.
  ALLFOLD_COLD void end(TcpSession& session) noexcept {
    watch(session.socket.get(), EPOLL_CTL_DEL, 0, nullptr);
    ::shutdown(session.socket.get(), SHUT_RDWR);
    core_.close(session);
  }

  ALLFOLD_COLD void send(TcpSession& session, Clock::time_point now) {
    while (!session.dropped && !session.out.empty()) {
      const std::string_view rest = session.out.view();
      const ssize_t n = ::send(session.socket.get(), rest.data(), rest.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n >= 0) {
        core_.sent(session, static_cast<std::size_t>(n), now);
      } else if (errno == EAGAIN) {
        break;
      } else if (errno != EINTR) {
        core_.drop(session);
      }
    }
    if (!session.touched) rewatch(session);
  }

  ALLFOLD_COLD void rewatch(TcpSession& session) noexcept {
    const std::uint32_t events = (core_.wants_input(session) ? std::uint32_t{EPOLLIN} : 0U) |
                                 (session.out.empty() ? 0U : std::uint32_t{EPOLLOUT});
    if (events == session.events) return;
    if (watch(session.socket.get(), EPOLL_CTL_MOD, events, &session)) session.events = events;
  }

  ALLFOLD_COLD void accept() noexcept {
    for (int budget = 64; budget > 0 && !stopping_; --budget) {
      UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!fd) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) pause_accepting();
        if (errno == ECONNABORTED || errno == EINTR) continue;
        return;
      }
      const Clock::time_point now = Clock::now();
      try {
        if (core_.has_room()) {
          greet(std::move(fd), now);
        } else {
          refuse(fd.get());
        }
      } catch (const std::exception&) {
        pause_accepting();
      }
    }
  }

  ALLFOLD_COLD void greet(UniqueFd fd, Clock::time_point now) {
    set_option(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
    // A client whose host vanished says nothing more: two minutes later its place is free again.
    set_option(fd.get(), SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd.get(), IPPROTO_TCP, TCP_KEEPIDLE, 60);
    set_option(fd.get(), IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set_option(fd.get(), IPPROTO_TCP, TCP_KEEPCNT, 6);
    const std::string nonce = tcp_nonce();
    TcpSession& session = core_.open(nonce, now);
    session.socket = std::move(fd);
    session.events = EPOLLIN;
    if (!watch(session.socket.get(), EPOLL_CTL_ADD, session.events, &session)) core_.drop(session);
  }

  ALLFOLD_COLD void refuse(int fd) {
    const std::string text = encode_reply(0, Status::refused_full, concat({core_.limits().clients}));
    while (::send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EINTR) {
    }
  }

  /// Out of descriptors or memory, or not meant: looks again later rather than spin on a connection that it cannot
  /// take, or take it from a server that can.
  ALLFOLD_COLD void pause_accepting() noexcept {
    watch(listener_.get(), EPOLL_CTL_MOD, 0, &listener_);
    accept_again_ = Clock::now() + std::chrono::milliseconds(50);
  }

  void resume_accepting() noexcept {
    watch(listener_.get(), EPOLL_CTL_MOD, EPOLLIN, &listener_);
    accept_again_ = Clock::time_point::max();
  }

  void stop() noexcept {
    stopping_ = true;
    watch(wake_.get(), EPOLL_CTL_DEL, 0, nullptr);
    watch(listener_.get(), EPOLL_CTL_DEL, 0, nullptr);
    accept_again_ = Clock::time_point::max();
    core_.close_all(Clock::now() + std::chrono::seconds(1));
  }

  TcpCore core_;
  UniqueFd listener_;
  UniqueFd wake_;
  UniqueFd epoll_;
  TcpAddress address_;
  pid_t owner_;
  pthread_t thread_ = {};
  bool stopping_ = false;
  Clock::time_point accept_again_ = Clock::time_point::max();
  char chunk_[65536];
};

}  // namespace allfold::detail
