// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

namespace allfold {

/// Where a DescriptorExchange receives: 48 hexadecimal digits and zeros. Plain bytes, to be published through a
/// store. The first 16 digits name the socket, which any user of the host can list; the other 32 are the secret that
/// a datagram must show, and only who reads the store knows it.
struct ExchangeAddress {
  char text[56] = {};

  static constexpr std::size_t name_digits = 16;
  static constexpr std::size_t secret_digits = 32;

  std::string_view name() const noexcept { return {text, name_digits}; }
  std::string_view secret() const noexcept { return {text + name_digits, secret_digits}; }
};

/// The tag of what `sender` passes to everyone for its `serial`-th window.
constexpr std::uint64_t exchange_tag(std::uint32_t serial, int sender) noexcept {
  return (std::uint64_t{serial} << 32) | static_cast<std::uint32_t>(sender);
}

/// Passes file descriptors (of shared memory, of exported GPU memory) between ranks of one host, be they processes
/// or threads, over Unix datagrams. The socket's address is abstract: it is on no file system, and gone with its
/// process. Datagrams that are not from this user, or do not show the secret, are dropped with all that they carry.
/// One object is used by one thread at a time.
class DescriptorExchange {
 public:
  /// The most descriptors that are held until they are asked for; further ones wait in the socket.
  static constexpr std::size_t max_kept = 256;

  /// Opens the socket under a fresh random address.
  /// @throws SystemError if the system refuses.
  explicit DescriptorExchange(const Where& where)
      : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    if (!socket_) throw SystemError(where, errno, {"could not open a Unix socket to pass descriptors"});
    unsigned char random[(ExchangeAddress::name_digits + ExchangeAddress::secret_digits) / 2];
    if (::getrandom(random, sizeof random, 0) != static_cast<ssize_t>(sizeof random)) {
      throw SystemError(where, errno, {"could not draw a random address to pass descriptors"});
    }
    for (std::size_t i = 0; i < sizeof random; ++i) {
      address_.text[2 * i] = "0123456789abcdef"[random[i] >> 4];
      address_.text[2 * i + 1] = "0123456789abcdef"[random[i] & 15];
    }
    const int on = 1;
    const SocketName name(address_);
    if (::setsockopt(socket_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0 ||
        ::bind(socket_.get(), name.get(), name.length()) != 0) {
      throw SystemError(where, errno, {"could not bind a Unix socket to pass descriptors"});
    }
  }

  const ExchangeAddress& address() const noexcept { return address_; }

  /// Passes a duplicate of `fd` to the exchange at `to`, which belongs to rank `to_rank`; does not wait until it is
  /// received. Any order of sends and receives among the ranks is free of deadlock: what arrives meanwhile is kept.
  /// @throws TimeoutError if the peer's queue stays full; PeerError if nobody is at that address; SystemError.
  void send(const Where& where, const ExchangeAddress& to, std::uint64_t tag, int to_rank, int fd, Deadline deadline) {
    Frame frame = make_frame(to, tag);
    const SocketName name(to);
    iovec part = {&frame, sizeof frame};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_name = const_cast<sockaddr*>(name.get());
    message.msg_namelen = name.length();
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    while (::sendmsg(socket_.get(), &message, MSG_NOSIGNAL) < 0) {
      const int number = errno;
      if (number == EINTR) continue;
      if (number == ECONNREFUSED || number == ENOENT) {
        throw PeerError(where, to_rank,
                        {"rank ", to_rank,
                         " cannot be handed a descriptor: its socket is gone; expected a process "
                         "that runs in the same network namespace"});
      }
      const bool passes = number == EAGAIN || number == ENOBUFS || number == ENOMEM || number == ETOOMANYREFS;
      if (!passes) throw SystemError(where, number, {"could not pass descriptor ", fd, " to rank ", to_rank});
      if (deadline.expired()) {
        throw TimeoutError(where, to_rank,
                           {"rank ", to_rank, " does not take the descriptors sent to it; see whether it is stuck"});
      }
      // The peer's queue is full, perhaps because it waits for room in ours. No event tells when it drains.
      keep_arrivals(where);
      wait_readable(1);
    }
  }

  /// Waits for the descriptor that rank `from_rank` sends under `tag`, and owns it. One tag sent twice is received
  /// in the order of sending.
  /// @throws TimeoutError naming `from_rank`; SystemError, also if this process may not open more files; PeerError
  /// if max_kept descriptors of other tags block the way.
  UniqueFd receive(const Where& where, std::uint64_t tag, int from_rank, Deadline deadline) {
    while (true) {
      UniqueFd fd = try_receive(where, tag);
      if (fd) return fd;
      if (deadline.expired()) {
        throw TimeoutError(where, from_rank,
                           {"rank ", from_rank,
                            " did not send its descriptor in time; see whether "
                            "it is alive and takes part"});
      }
      wait_readable(deadline.remaining_ms());
    }
  }

  /// The descriptor that was sent under `tag`, if it is here; else an empty one.
  UniqueFd try_receive(const Where& where, std::uint64_t tag) {
    keep_arrivals(where);
    const auto found = std::find_if(kept_.begin(), kept_.end(), [tag](const Kept& k) { return k.tag == tag; });
    if (found == kept_.end()) {
      if (kept_.size() < max_kept) return UniqueFd();
      throw PeerError(where, -1, {max_kept, " descriptors arrived that no rank asks for; expected each under its tag"});
    }
    UniqueFd fd = std::move(found->fd);
    kept_.erase(found);
    return fd;
  }

 private:
  struct Frame {
    char secret[ExchangeAddress::secret_digits];
    std::uint64_t tag;
  };
  struct Kept {
    std::uint64_t tag;
    UniqueFd fd;
  };

  class SocketName {
   public:
    explicit SocketName(const ExchangeAddress& address) noexcept {
      name_.sun_family = AF_UNIX;
      std::memcpy(name_.sun_path + 1, "allfold-", 8);  // a zero byte first: an abstract name
      std::memcpy(name_.sun_path + 9, address.text, ExchangeAddress::name_digits);
    }
    const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&name_); }
    socklen_t length() const noexcept {
      return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 9 + ExchangeAddress::name_digits);
    }

   private:
    sockaddr_un name_ = {};
  };

  static Frame make_frame(const ExchangeAddress& to, std::uint64_t tag) noexcept {
    Frame frame = {};
    std::memcpy(frame.secret, to.secret().data(), sizeof frame.secret);
    frame.tag = tag;
    return frame;
  }

  void wait_readable(int timeout_ms) const noexcept {
    const bool room = kept_.size() < max_kept;  // without it an arrival is no reason to wake up
    pollfd readable = {socket_.get(), static_cast<short>(room ? POLLIN : 0), 0};
    ::poll(&readable, 1, timeout_ms);  // a signal or an error: the caller looks again anyhow
  }

  /// Bounded, so that a stranger who floods the socket cannot hold the caller past its deadline.
  void keep_arrivals(const Where& where) {
    for (std::size_t taken = 0; taken < max_kept && kept_.size() < max_kept && keep_one(where);) ++taken;
  }

  /// Takes one datagram off the socket; false if there is none.
  bool keep_one(const Where& where) {
    Frame frame = {};
    iovec part = {&frame, sizeof frame};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(sizeof(int))];
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    if (got < 0) {
      if (errno == EAGAIN) return false;
      if (errno == EINTR) return true;
      throw SystemError(where, errno, {"could not receive a descriptor"});
    }
    // Owned before anything is judged: whatever a stranger's message carried is closed.
    UniqueFd first;
    bool several = false;
    bool same_user = false;
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      if (c->cmsg_level != SOL_SOCKET) continue;
      if (c->cmsg_type == SCM_CREDENTIALS) {
        ucred sender = {};
        std::memcpy(&sender, CMSG_DATA(c), sizeof sender);
        same_user = sender.uid == ::getuid();
      } else if (c->cmsg_type == SCM_RIGHTS) {
        for (std::size_t at = 0; CMSG_LEN(at + sizeof(int)) <= c->cmsg_len; at += sizeof(int)) {
          int fd = -1;
          std::memcpy(&fd, CMSG_DATA(c) + at, sizeof fd);
          UniqueFd owned(fd);
          several = several || static_cast<bool>(first);
          if (!first) first = std::move(owned);
        }
      }
    }
    const bool whole = got == static_cast<ssize_t>(sizeof frame) && (message.msg_flags & MSG_TRUNC) == 0;
    const bool knows = std::string_view(frame.secret, sizeof frame.secret) == address_.secret();
    if (!same_user || !whole || !knows || several) return true;
    if (!first) {
      if ((message.msg_flags & MSG_CTRUNC) == 0) return true;
      throw SystemError(where, EMFILE, {"a descriptor arrived that this process may not open; try ulimit -n"});
    }
    kept_.push_back({frame.tag, std::move(first)});
    return true;
  }

  UniqueFd socket_;
  ExchangeAddress address_;
  std::vector<Kept> kept_;
};

}  // namespace allfold
