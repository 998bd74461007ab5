// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/socket.h>

#include <allfold/base/config.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/store/backoff.hpp>
#include <allfold/store/tcp_protocol.hpp>
#include <allfold/store/tcp_socket.hpp>

namespace allfold::detail {

/// One connection to a TcpStore's server. Thread safe: requests of several threads are under way at once, and one
/// of the waiting threads receives for all of them.
class TcpClient {
 public:
  /// Where to connect to, who says so in messages, and the secret.
  struct Peer {
    std::string host;
    std::uint16_t port = 0;
    std::string secret;
    int rank = -1;
    int world_size = 0;
    bool join_once = false;
  };

  /// Connects, and tries again while nobody listens there.
  /// @throws TimeoutError if nobody does by the deadline; PeerError if it is no TcpStore's server, or has no place
  /// left; UsageError if the secrets differ.
  ALLFOLD_COLD TcpClient(Peer peer, Deadline deadline) : peer_(std::move(peer)) {
    const Duration timeout = deadline.remaining();
    Backoff backoff(std::chrono::milliseconds(1), std::chrono::milliseconds(100));
    for (std::string problem;; backoff.sleep(deadline)) {
      const TcpAddresses addresses(peer_.host, peer_.port, problem);
      std::string stranger;  // what answers there, if it is no TcpStore's server
      bool retry = addresses.first() == nullptr;
      for (const addrinfo* one = addresses.first(); one != nullptr; one = one->ai_next) {
        if (try_address(TcpAddress(*one), deadline, problem, stranger)) return;
        retry = retry || stranger.empty();
      }
      if (!retry) throw PeerError(where("TcpStore"), 0, {stranger, "; expected a TcpStore's server; try another port"});
      if (deadline.expired()) {
        if (came_again_) problem = "this rank joined the store there before, and rank 0 serves no other yet";
        throw TimeoutError(where("TcpStore"), 0,
                           {"cannot reach the store's server at ", peer_.host, " port ", int{peer_.port}, " (", problem,
                            "); expected rank 0 to serve there within ", whole_ms(timeout),
                            " ms; try a longer deadline, or an address of rank 0's host"});
      }
    }
  }
  TcpClient(const TcpClient&) = delete;
  TcpClient& operator=(const TcpClient&) = delete;

  /// Sends a request and returns the payload of its reply.
  /// @throws what the public methods of TcpStore say.
  ALLFOLD_COLD std::string call(const char* operation, TcpOp op, std::int64_t number,
                                std::span<const std::string_view> texts, Deadline deadline) {
    check_sizes(operation, op, texts);
    const Duration timeout = deadline.remaining();
    std::unique_lock lock(mutex_);
    Pending mine;
    mine.id = next_id_ = next_id_ + 1 == 0 ? 1 : next_id_ + 1;
    const Listed listed(pending_, mine);
    if (!send(encode_request(mine.id, op, number, texts), lock, deadline) || !receive(mine, lock, deadline)) {
      if (!broken_.empty()) throw PeerError(where(operation), 0, {broken_});
      throw_late(operation, op, texts, timeout);
    }
    if (mine.status != Status::ok) throw_status(operation, mine, number, texts);
    return std::move(mine.payload);
  }

 private:
  struct Pending {
    std::uint32_t id = 0;
    bool done = false;
    Status status = Status::ok;
    std::string payload;
    Pending* next = nullptr;
  };

  /// Keeps a request in the list while its call lasts.
  class Listed {
   public:
    Listed(Pending*& first, Pending& pending) : first_(first), self_(&pending) {
      pending.next = std::exchange(first, &pending);
    }
    ~Listed() {
      Pending** one = &first_;
      while (*one != self_) one = &(*one)->next;
      *one = self_->next;
    }
    Listed(const Listed&) = delete;
    Listed& operator=(const Listed&) = delete;

   private:
    Pending*& first_;
    Pending* self_;
  };

  /// A thread's turn to send, or to receive.
  class Turn {
   public:
    Turn(TcpClient& client, bool& taken) noexcept : client_(client), taken_(taken) { taken_ = true; }
    ~Turn() {
      taken_ = false;
      client_.changed_.notify_all();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    TcpClient& client_;
    bool& taken_;
  };

  Where where(const char* operation) const { return {operation, peer_.rank, peer_.world_size}; }

  /// Waits for `events` on the socket without the lock; false if the deadline passed.
  ALLFOLD_COLD bool ready(short events, std::unique_lock<std::mutex>& lock, Deadline deadline) {
    lock.unlock();
    pollfd one = {socket_.get(), events, 0};
    const int n = ::poll(&one, 1, deadline.remaining_ms());
    lock.lock();
    return n != 0 || !deadline.expired();
  }

  /// False on a deadline that passed, or a broken connection. What was sent in part stays in out_ and goes first
  /// next time, so that the stream stays in step.
  ALLFOLD_COLD bool send(const std::string& frame, std::unique_lock<std::mutex>& lock, Deadline deadline) {
    while (sending_) {
      if (deadline.expired()) return false;
      changed_.wait_until(lock, deadline.at());
    }
    if (!broken_.empty()) return false;
    const Turn turn(*this, sending_);
    out_.append(frame);
    while (!out_.empty() && broken_.empty()) {
      const std::string_view rest = out_.view();
      const ssize_t n = ::send(socket_.get(), rest.data(), rest.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n >= 0) {
        out_.take(static_cast<std::size_t>(n));
      } else if (errno == EAGAIN) {
        if (receiving_ ? ready(POLLOUT, lock, deadline) : receive_to_send(lock, deadline)) continue;
        if (out_.size() >= frame.size()) out_.drop_back(frame.size());  // none of it has left
        return false;
      } else if (errno != EINTR) {
        out_.take(out_.size());  // the connection is gone; what it said last is still to be read
      }
    }
    return broken_.empty();
  }

  /// The server takes no more before it is rid of replies, so somebody has to take those.
  ALLFOLD_COLD bool receive_to_send(std::unique_lock<std::mutex>& lock, Deadline deadline) {
    const Turn turn(*this, receiving_);
    if (!read_some()) return !broken_.empty() || ready(POLLIN | POLLOUT, lock, deadline);
    dispatch();
    return true;
  }

  ALLFOLD_COLD bool receive(Pending& mine, std::unique_lock<std::mutex>& lock, Deadline deadline) {
    while (!mine.done) {
      if (!broken_.empty()) return false;
      if (receiving_) {
        if (deadline.expired()) return false;
        changed_.wait_until(lock, deadline.at());
        continue;
      }
      const Turn turn(*this, receiving_);
      if (read_some()) {
        dispatch();
      } else if (broken_.empty() && !ready(POLLIN, lock, deadline)) {
        return false;
      }
    }
    return true;
  }

  /// Moves what has arrived into in_; false if that is nothing, or the connection is gone.
  ALLFOLD_COLD bool read_some() {
    char chunk[65536];
    const ssize_t n = ::recv(socket_.get(), chunk, sizeof chunk, MSG_DONTWAIT);
    if (n > 0) in_.append({chunk, static_cast<std::size_t>(n)});
    if (n == 0) break_off("the server closed the connection", 0);
    if (n < 0 && errno != EAGAIN && errno != EINTR) break_off("the connection to the server broke", errno);
    return n > 0;
  }

  ALLFOLD_COLD void break_off(std::string_view what, int number) {
    broken_ = concat({what, number == 0 ? "" : ": ", number == 0 ? "" : std::strerror(number),
                      "; expected rank 0 to serve the store until all are done, got its end; see why rank 0 left"});
  }

  /// Takes one whole frame off in_, if there is one.
  ALLFOLD_COLD bool take_frame(std::uint32_t& id, Status& status, std::string& payload) {
    TcpReader reader{in_.view()};
    const std::size_t bytes = reader.integer<std::uint32_t>();
    if (!reader.ok) return false;
    if (bytes < tcp_reply_head || bytes > longest_reply_) {
      break_off("the server broke the protocol", 0);
      return false;
    }
    TcpReader body{reader.bytes(bytes)};
    if (!reader.ok) return false;
    id = body.integer<std::uint32_t>();
    status = static_cast<Status>(body.integer<std::uint8_t>());
    payload = body.rest;
    in_.take(4 + bytes);
    return true;
  }

  /// Hands replies to those who wait for them. One that nobody awaits any more came too late, and is dropped.
  ALLFOLD_COLD void dispatch() {
    Pending frame;
    while (take_frame(frame.id, frame.status, frame.payload)) {
      if (frame.status == Status::bad_request) break_off(frame.payload, 0);
      for (Pending* one = pending_; one != nullptr; one = one->next) {
        if (one->id != frame.id || one->done) continue;
        one->status = frame.status;
        one->payload = std::move(frame.payload);
        one->done = true;
        changed_.notify_all();
        break;
      }
    }
  }

  /// Connects to one address and says hello. On failure `problem` says why, and `stranger` too if nothing is gained
  /// by trying again.
  ALLFOLD_COLD bool try_address(const TcpAddress& address, Deadline deadline, std::string& problem,
                                std::string& stranger) {
    int number = 0;
    // A packet may have met a host that was not up yet: a fresh attempt finds out sooner than the kernel's.
    socket_ = connect_to(address, deadline.sooner(Deadline::after(std::chrono::seconds(5))), number);
    stranger.clear();
    in_ = out_ = TcpBuffer();
    broken_.clear();
    if (!socket_) {
      problem = concat({address.text(), ": ", std::strerror(number)});
      return false;
    }
    std::unique_lock lock(mutex_);
    longest_reply_ = 4096;
    const std::uint32_t rank = peer_.join_once ? static_cast<std::uint32_t>(peer_.rank) : tcp_any_rank;
    const std::string card = tcp_card(rank, tcp_nonce());
    Pending frame;
    std::string server_nonce;
    for (int step = 0; step < 2; ++step) {
      while (!take_frame(frame.id, frame.status, frame.payload)) {
        if (!broken_.empty()) {  // not what a server would say
          stranger = concat({"another program answers at ", address.text()});
          return false;
        }
        if (read_some()) continue;
        if (broken_.empty() && ready(POLLIN, lock, deadline)) continue;
        problem = concat({address.text(), broken_.empty() ? ": it accepts, but says nothing" : ": it hung up"});
        broken_.clear();
        return false;
      }
      if (frame.status == Status::refused_full) {
        throw PeerError(where("TcpStore"), 0,
                        {"the store's server at ", address.text(), " has no place left; expected at most ",
                         frame.payload, " clients; try a larger TcpStoreLimits::clients"});
      }
      if (frame.status == Status::refused_secret) throw_secret(address);
      if (frame.status == Status::refused_again) {
        came_again_ = true;
        return false;
      }
      const std::string_view payload = frame.payload;
      if (step == 0) {
        if (frame.status != Status::greeting || payload.size() != tcp_magic.size() + tcp_nonce_bytes ||
            payload.substr(0, tcp_magic.size()) != tcp_magic) {
          stranger = concat({"another program, or another version of allfold, answers at ", address.text()});
          return false;
        }
        server_nonce = payload.substr(tcp_magic.size());
        if (!send(encode_hello(peer_.secret, server_nonce, card), lock, deadline)) return false;
      } else {
        TcpReader reader{payload};
        const Digest proof = tcp_proof(peer_.secret, "server", server_nonce, card);
        if (!equal_in_constant_time(reader.bytes(proof.size()), text(proof))) throw_secret(address);
        key_bytes_ = reader.integer<std::uint64_t>();
        value_bytes_ = reader.integer<std::uint64_t>();
        longest_reply_ = tcp_reply_head + value_bytes_ + 4096;
      }
    }
    return true;
  }

  [[noreturn]] ALLFOLD_COLD void throw_secret(const TcpAddress& address) const {
    throw UsageError(where("TcpStore"), {"the store's server at ", address.text(),
                                         " has another secret; expected the same "
                                         "TcpStoreOptions::secret on all ranks"});
  }

  ALLFOLD_COLD void check_sizes(const char* operation, TcpOp op, std::span<const std::string_view> texts) const {
    const bool keys_only = op == TcpOp::wait || op == TcpOp::check;
    std::size_t total = 0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const bool key = i == 0 || keys_only;
      if (texts[i].size() > (key ? key_bytes_ : value_bytes_))
        throw_size(operation, key ? "key" : "value", texts[i].size());
      total += 4 + texts[i].size();
    }
    if (total > value_bytes_ * 2 + key_bytes_) throw_size(operation, "list of keys", total);
  }

  [[noreturn]] ALLFOLD_COLD void throw_size(const char* operation, const char* what, std::size_t bytes) const {
    const std::string_view kind = what;
    const std::uint64_t most = kind == "key"     ? key_bytes_
                               : kind == "value" ? value_bytes_
                                                 : value_bytes_ * 2 + key_bytes_;
    throw UsageError(where(operation), {"the ", what, " is too long; expected at most ", most, " bytes, got ", bytes,
                                        "; try another TcpStoreOptions::limits on rank 0"});
  }

  [[noreturn]] ALLFOLD_COLD void throw_late(const char* operation, TcpOp op, std::span<const std::string_view> texts,
                                            Duration timeout) const {
    if (op == TcpOp::get) throw_key_missing(where(operation), texts[0], timeout);
    if (op == TcpOp::wait) {
      const std::vector<std::string> keys(texts.begin(), texts.end());
      throw TimeoutError(where(operation), -1,
                         {"not all keys appeared of ", quoted_key(keys), "; expected them within ", whole_ms(timeout),
                          " ms; try a longer deadline, or see why the rank that sets them is late"});
    }
    throw TimeoutError(where(operation), 0,
                       {"the store's server did not answer; expected it within ", whole_ms(timeout),
                        " ms; it is unknown whether the call took effect"});
  }

  [[noreturn]] ALLFOLD_COLD void throw_status(const char* operation, const Pending& reply, std::int64_t number,
                                              std::span<const std::string_view> texts) const {
    if (reply.status == Status::not_a_number || reply.status == Status::overflow) {
      throw_bad_sum(where(operation), reply.status == Status::overflow ? Addition::overflow : Addition::not_a_number,
                    texts[0], number, reply.payload);
    }
    if (reply.status == Status::too_large) throw UsageError(where(operation), {reply.payload});
    throw PeerError(where(operation), 0,
                    {"the store's server refused: ", reply.payload, "; try larger TcpStoreOptions::limits on rank 0"});
  }

  const Peer peer_;
  bool came_again_ = false;  // while connecting: the last store is still served
  std::uint64_t key_bytes_ = 0;
  std::uint64_t value_bytes_ = 0;
  std::size_t longest_reply_ = 0;
  UniqueFd socket_;

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  bool sending_ = false;
  bool receiving_ = false;
  std::uint32_t next_id_ = 0;
  TcpBuffer in_;
  TcpBuffer out_;
  Pending* pending_ = nullptr;
  std::string broken_;  // why nothing works any more
};

}  // namespace allfold::detail
