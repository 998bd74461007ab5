// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <allfold/base/config.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/store/key_table.hpp>
#include <allfold/store/tcp_protocol.hpp>

namespace allfold::detail {

/// A get or wait whose keys do not all exist yet.
struct TcpWaiter {
  std::uint32_t id = 0;
  TcpOp op = TcpOp::wait;
  Clock::time_point until;
  std::vector<std::string> keys;
  std::size_t next = 0;  ///< the key to exist next; those before it were seen
  std::size_t bytes = 0;
};

/// The server's side of one connection.
struct TcpSession {
  TcpBuffer in;
  TcpBuffer out;                ///< to be sent, front first
  bool greeted = false;         ///< it said hello, and knows the secret
  bool closing = false;         ///< to be dropped once `out` is empty; takes no more input
  bool dropped = false;         ///< to be closed now
  bool touched = false;         ///< listed for TcpCore::next_touched, or just taken from there
  TcpSession* below = nullptr;  ///< the next in that list
  TcpSession* next = nullptr;   ///< the next of all
  Clock::time_point limit;      ///< the end of its patience: see TcpCore::timed
  std::string nonce;
  std::vector<TcpWaiter> waiters;
  std::size_t waiter_bytes = 0;
  std::size_t counted = 0;  ///< its share of TcpCore::buffered_bytes
  UniqueFd socket;          ///< these two are the owner's; TcpCore leaves them alone
  std::uint32_t events = 0;
};

/// A TcpStore's server without sockets and without a clock: bytes in, bytes out, and `now` given. One thread.
class TcpCore {
 public:
  TcpCore(std::string secret, const TcpStoreLimits& limits) : secret_(std::move(secret)), limits_(limits) {}
  TcpCore(const TcpCore&) = delete;
  TcpCore& operator=(const TcpCore&) = delete;
  ~TcpCore() {
    while (first_ != nullptr) close(*first_);
  }

  /// A new connection; its greeting is in `out`. `nonce` is tcp_nonce_bytes long and was never used before.
  ALLFOLD_COLD TcpSession& open(std::string_view nonce, Clock::time_point now) {
    TcpSession& session = *new TcpSession;
    session.next = std::exchange(first_, &session);
    ++sessions_;
    session.nonce = nonce;
    set_limit(session, now + limits_.handshake_timeout);
    reply(session, 0, Status::greeting, concat({tcp_magic, nonce}), now);
    return session;
  }

  ALLFOLD_COLD void close(TcpSession& session) {
    buffered_ -= session.counted;
    if (session.dropped) --dropped_;
    --sessions_;
    TcpSession** one = &first_;
    while (*one != &session) one = &(*one)->next;
    *one = session.next;
    delete &session;
  }

  /// Bytes of `session` arrived.
  ALLFOLD_COLD void feed(TcpSession& session, std::string_view bytes, Clock::time_point now) {
    if (session.closing || session.dropped) return;
    if (session.counted + bytes.size() > limits_.client_buffered_bytes ||
        buffered_ + bytes.size() > limits_.buffered_bytes) {
      return drop(session);
    }
    session.in.append(bytes);
    count(session);
    process(session, now);
  }

  /// The first `n` bytes of `session.out` have left.
  ALLFOLD_COLD void sent(TcpSession& session, std::size_t n, Clock::time_point now) {
    session.out.take(n);
    count(session);
    if (session.greeted && !session.closing) set_limit(session, now + limits_.stall_timeout);
    process(session, now);  // it may have been paused for its unsent replies
  }

  /// Whether bytes of `session` are welcome now. A client that does not read its replies is not read either.
  static bool wants_input(const TcpSession& session) noexcept {
    return !session.closing && !session.dropped && session.out.size() < pause_bytes;
  }

  /// Ends what has run out of time: waits, hellos that did not come, replies that nobody takes.
  ALLFOLD_COLD void expire(Clock::time_point now) {
    next_expiry_ = Clock::time_point::max();
    for (TcpSession* one = first_; one != nullptr; one = one->next) {
      TcpSession& session = *one;
      for (std::size_t i = 0; i < session.waiters.size();) {
        if (session.waiters[i].until <= now) {
          forget(session, i);
        } else {
          note(session.waiters[i++].until);
        }
      }
      count(session);
      if (session.dropped || !timed(session)) continue;
      if (session.limit <= now) {
        drop(session);
      } else {
        note(session.limit);
      }
    }
  }

  /// When `expire` is due next, at the earliest.
  Clock::time_point next_expiry() const noexcept { return next_expiry_; }

  /// Whether one more connection may open. Where all places are taken, the one that has been without a hello for
  /// longest loses its own.
  ALLFOLD_COLD bool has_room() {
    if (sessions_ - dropped_ < limits_.clients) return true;
    TcpSession* oldest = nullptr;
    for (TcpSession* one = first_; one != nullptr; one = one->next) {
      if (one->greeted || one->dropped) continue;
      if (oldest == nullptr || one->limit < oldest->limit) oldest = one;
    }
    if (oldest == nullptr) return false;
    drop(*oldest);
    return true;
  }

  void drop(TcpSession& session) noexcept {
    if (!std::exchange(session.dropped, true)) ++dropped_;
    touch(session);
  }

  /// Lets every connection end, by `until` at the latest, with what is on its way to it.
  ALLFOLD_COLD void close_all(Clock::time_point until) noexcept {
    for (TcpSession* one = first_; one != nullptr; one = one->next) {
      one->closing = true;
      set_limit(*one, until);
      touch(*one);
    }
  }

  /// A connection with something to send or to close, or null. Its owner sees to that and clears `touched`, or closes.
  TcpSession* next_touched() noexcept {
    TcpSession* top = touched_;
    if (top != nullptr) touched_ = std::exchange(top->below, nullptr);
    return top;
  }

  /// Whether a rank asked for this server's successor, which may listen on the same socket, since the last call.
  bool step_back() noexcept { return std::exchange(step_back_, false); }

  const TcpStoreLimits& limits() const noexcept { return limits_; }
  std::size_t sessions() const noexcept { return sessions_; }
  std::size_t buffered_bytes() const noexcept { return buffered_; }
  std::size_t stored_bytes() const noexcept { return table_.bytes(); }

 private:
  static constexpr std::size_t pause_bytes = 65536;

  /// Whether `session.limit` counts.
  static bool timed(const TcpSession& session) noexcept {
    return !session.greeted || session.closing || !session.out.empty();
  }

  void note(Clock::time_point at) noexcept { next_expiry_ = at < next_expiry_ ? at : next_expiry_; }

  void set_limit(TcpSession& session, Clock::time_point at) noexcept {
    session.limit = at;
    note(at);
  }

  void touch(TcpSession& session) noexcept {
    if (std::exchange(session.touched, true)) return;
    session.below = std::exchange(touched_, &session);
  }

  void count(TcpSession& session) noexcept {
    const std::size_t bytes = session.in.size() + session.out.size() + session.waiter_bytes;
    buffered_ += bytes - session.counted;
    session.counted = bytes;
  }

  ALLFOLD_COLD void reply(TcpSession& session, std::uint32_t id, Status status, std::string_view payload,
                          Clock::time_point now) {
    if (session.closing || session.dropped) return;
    if (session.counted + payload.size() > limits_.client_buffered_bytes) return drop(session);
    if (payload.size() > 512 && buffered_ + payload.size() > limits_.buffered_bytes) {
      return reply(session, id, Status::no_room, "the server has too many replies under way", now);
    }
    if (session.out.empty() && session.greeted) set_limit(session, now + limits_.stall_timeout);
    session.out.append(encode_reply(id, status, payload));
    count(session);
    touch(session);
  }

  ALLFOLD_COLD void refuse(TcpSession& session, Status status, std::string_view why, Clock::time_point now) {
    reply(session, 0, status, why, now);
    session.closing = true;
    set_limit(session, now + limits_.handshake_timeout);
  }

  ALLFOLD_COLD void process(TcpSession& session, Clock::time_point now) {
    while (wants_input(session)) {
      TcpReader reader{session.in.view()};
      const std::size_t bytes = reader.integer<std::uint32_t>();
      if (!reader.ok) break;
      if (!session.greeted && bytes != tcp_hello_bytes) return drop(session);  // a stranger
      if (bytes > longest_request(limits_)) {
        return refuse(session, Status::bad_request, "a request is longer than the server allows", now);
      }
      const std::string_view body = reader.bytes(bytes);
      if (!reader.ok) break;
      if (session.greeted) {
        request(session, body, now);
      } else {
        hello(session, body, now);
      }
      session.in.take(4 + bytes);
      count(session);
    }
  }

  ALLFOLD_COLD void hello(TcpSession& session, std::string_view body, Clock::time_point now) {
    TcpReader reader{body};
    if (reader.bytes(tcp_magic.size()) != tcp_magic) return drop(session);
    const std::string_view card = reader.bytes(tcp_card_bytes);
    if (!equal_in_constant_time(reader.rest, text(tcp_proof(secret_, "client", session.nonce, card)))) {
      return refuse(session, Status::refused_secret, {}, now);
    }
    const std::uint32_t rank = TcpReader{card}.integer<std::uint32_t>();
    if (rank != tcp_any_rank) {
      if (joined_.contains(card.substr(0, 4))) {
        step_back_ = true;
        return refuse(session, Status::refused_again, {}, now);
      }
      if (joined_.bytes() < 1000000) joined_.set(card.substr(0, 4), {});
    }
    session.greeted = true;
    std::string welcome(text(tcp_proof(secret_, "server", session.nonce, card)));
    put(welcome, static_cast<std::uint64_t>(limits_.key_bytes));
    put(welcome, static_cast<std::uint64_t>(limits_.value_bytes));
    reply(session, 0, Status::ok, welcome, now);
  }

  ALLFOLD_COLD void request(TcpSession& session, std::string_view body, Clock::time_point now) {
    TcpReader reader{body};
    const std::uint32_t id = reader.integer<std::uint32_t>();
    const TcpOp op = static_cast<TcpOp>(reader.integer<std::uint8_t>());
    const std::int64_t number = reader.integer<std::int64_t>();
    const std::size_t texts = reader.integer<std::uint32_t>();
    const bool many = op == TcpOp::wait || op == TcpOp::check;
    const std::size_t expected = op == TcpOp::set ? 2 : op == TcpOp::compare_set ? 3 : 1;
    const bool known = op >= TcpOp::set && op <= TcpOp::compare_set;
    if (!reader.ok || !known || (many ? texts > reader.rest.size() / 4 : texts != expected)) {
      return refuse(session, Status::bad_request, "a request is malformed", now);
    }
    if (many) return request_many(session, id, op, number, reader, texts, now);

    const std::string_view key = reader.text();
    const std::string_view value = expected > 1 ? reader.text() : std::string_view();
    const std::string_view desired = expected > 2 ? reader.text() : std::string_view();
    if (!reader.ok || !reader.rest.empty()) {
      return refuse(session, Status::bad_request, "a request is malformed", now);
    }
    if (key.size() > limits_.key_bytes || value.size() > limits_.value_bytes || desired.size() > limits_.value_bytes) {
      return reply(session, id, Status::too_large, "a key or value is longer than the server allows", now);
    }
    const std::string* old = table_.find(key);
    const bool adds = op == TcpOp::set || op == TcpOp::add || op == TcpOp::compare_set;
    const std::size_t more = (old == nullptr ? key.size() : 0) + (op == TcpOp::set   ? value.size()
                                                                  : op == TcpOp::add ? 20
                                                                                     : desired.size());
    if (adds && table_.bytes() - (old == nullptr ? 0 : old->size()) + more > limits_.stored_bytes) {
      return reply(session, id, Status::no_room, "the server holds as much as it may", now);
    }
    std::string answer;
    switch (op) {
      case TcpOp::get:
        if (old != nullptr) return reply(session, id, Status::ok, *old, now);
        return park(session, {id, op, {}, {std::string(key)}}, number, now);
      case TcpOp::erase: answer = std::string(1, table_.erase(key) ? '\1' : '\0'); break;
      case TcpOp::set: table_.set(key, value); break;
      case TcpOp::compare_set:
        if (table_.compare_set(key, value, desired)) {
          answer = desired;
        } else if (old != nullptr) {
          answer = *old;
        }
        break;
      default: {
        std::int64_t sum = 0;
        const Addition outcome = table_.add(key, number, sum);
        if (outcome != Addition::ok) {
          const Status status = outcome == Addition::overflow ? Status::overflow : Status::not_a_number;
          return reply(session, id, status, old->substr(0, 256), now);
        }
        put(answer, sum);
      }
    }
    reply(session, id, Status::ok, answer, now);
    if (adds && old == nullptr && table_.contains(key)) wake(key, now);
  }

  ALLFOLD_COLD void request_many(TcpSession& session, std::uint32_t id, TcpOp op, std::int64_t number, TcpReader reader,
                                 std::size_t texts, Clock::time_point now) {
    TcpWaiter waiter{id, op, {}, {}};
    bool all = true;
    for (std::size_t i = 0; i < texts && reader.ok; ++i) {
      const std::string_view key = reader.text();
      const bool exists = table_.contains(key);
      all = all && exists;
      if (op == TcpOp::wait) waiter.keys.emplace_back(key);
      if (all) waiter.next = i + 1;
    }
    if (!reader.ok || !reader.rest.empty()) {
      return refuse(session, Status::bad_request, "a request is malformed", now);
    }
    if (op == TcpOp::check) return reply(session, id, Status::ok, all ? "\1" : std::string_view("\0", 1), now);
    if (all) return reply(session, id, Status::ok, {}, now);
    park(session, std::move(waiter), number, now);
  }

  ALLFOLD_COLD void park(TcpSession& session, TcpWaiter waiter, std::int64_t timeout_ms, Clock::time_point now) {
    for (const std::string& key : waiter.keys) waiter.bytes += key.size() + sizeof key;
    if (session.waiters.size() >= limits_.client_waits ||
        session.counted + waiter.bytes > limits_.client_buffered_bytes ||
        buffered_ + waiter.bytes > limits_.buffered_bytes) {
      return reply(session, waiter.id, Status::no_room, "the server has too many waits parked", now);
    }
    // The client's clock decides; the server only clears up after it, hence a little later.
    constexpr std::int64_t longest_ms = std::int64_t{1} << 40;
    const std::int64_t ms = timeout_ms < 0 ? 0 : timeout_ms > longest_ms ? longest_ms : timeout_ms;
    waiter.until = now + std::chrono::milliseconds(ms + 200);
    note(waiter.until);
    session.waiter_bytes += waiter.bytes;
    session.waiters.push_back(std::move(waiter));
    count(session);
  }

  ALLFOLD_COLD void forget(TcpSession& session, std::size_t i) {
    session.waiter_bytes -= session.waiters[i].bytes;
    std::swap(session.waiters[i], session.waiters.back());
    session.waiters.pop_back();
  }

  /// `key` has come to exist: answers those who waited for it last.
  ALLFOLD_COLD void wake(std::string_view key, Clock::time_point now) {
    for (TcpSession* one = first_; one != nullptr; one = one->next) {
      TcpSession& session = *one;
      for (std::size_t i = 0; i < session.waiters.size();) {
        TcpWaiter& waiter = session.waiters[i];
        if (waiter.keys[waiter.next] != key || !complete(waiter)) {
          ++i;
          continue;
        }
        const std::uint32_t id = waiter.id;
        const bool wants_value = waiter.op == TcpOp::get;
        forget(session, i);
        count(session);
        reply(session, id, Status::ok, wants_value ? std::string_view(*table_.find(key)) : std::string_view(), now);
      }
    }
  }

  ALLFOLD_COLD bool complete(TcpWaiter& waiter) const {
    while (waiter.next < waiter.keys.size() && table_.contains(waiter.keys[waiter.next])) ++waiter.next;
    if (waiter.next < waiter.keys.size()) return false;
    // A key seen earlier may have gone meanwhile.
    for (waiter.next = 0; waiter.next < waiter.keys.size(); ++waiter.next) {
      if (!table_.contains(waiter.keys[waiter.next])) return false;
    }
    return true;
  }

  std::string secret_;
  TcpStoreLimits limits_;
  KeyTable table_;
  KeyTable joined_;  // the ranks that came, as keys
  bool step_back_ = false;
  TcpSession* first_ = nullptr;
  std::size_t sessions_ = 0;
  TcpSession* touched_ = nullptr;
  std::size_t dropped_ = 0;  // of these, those that wait to be closed
  std::size_t buffered_ = 0;
  Clock::time_point next_expiry_ = Clock::time_point::max();
};

}  // namespace allfold::detail
