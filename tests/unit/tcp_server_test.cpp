// SPDX-License-Identifier: Apache-2.0
#include <allfold/store/tcp_server.hpp>

#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/socket.h>

#include <doctest/doctest.h>

using namespace allfold;
using namespace allfold::detail;
using namespace std::chrono_literals;

namespace {

struct Reply {
  std::uint32_t id = 0;
  Status status = Status::ok;
  std::string payload;
};

/// The replies in `bytes`, which must hold whole ones.
std::vector<Reply> replies_in(std::string_view bytes) {
  std::vector<Reply> out;
  while (!bytes.empty()) {
    TcpReader reader{bytes};
    TcpReader body{reader.text()};
    Reply reply;
    reply.id = body.integer<std::uint32_t>();
    reply.status = static_cast<Status>(body.integer<std::uint8_t>());
    reply.payload = body.rest;
    REQUIRE(reader.ok);
    REQUIRE(body.ok);
    bytes = reader.rest;
    out.push_back(std::move(reply));
  }
  return out;
}

std::string card(std::uint32_t rank = tcp_any_rank) { return tcp_card(rank, std::string(tcp_nonce_bytes, 'c')); }

std::string request(std::uint32_t id, TcpOp op, std::int64_t number, std::initializer_list<std::string_view> texts) {
  return encode_request(id, op, number, {texts.begin(), texts.size()});
}

TcpStoreLimits small_limits() {
  TcpStoreLimits limits;
  limits.clients = 4;
  limits.key_bytes = 64;
  limits.value_bytes = 100000;
  limits.stored_bytes = 300000;
  limits.buffered_bytes = 2000000;
  limits.client_buffered_bytes = 600000;
  limits.client_waits = 3;
  limits.handshake_timeout = 10s;
  limits.stall_timeout = 30s;
  return limits;
}

/// A server's core and the time, both in the test's hands.
struct Bench {
  explicit Bench(const TcpStoreLimits& limits = small_limits(), std::string secret = {})
      : core(secret, limits), secret(std::move(secret)) {}

  TcpSession& stranger() { return core.open(std::string(tcp_nonce_bytes, 'n'), now); }

  TcpSession& client() {
    TcpSession& session = stranger();
    feed(session, encode_hello(secret, session.nonce, card()));
    CHECK(take(session).size() == 2);
    CHECK(session.greeted);
    return session;
  }

  void feed(TcpSession& session, std::string_view bytes) { core.feed(session, bytes, now); }

  std::vector<Reply> take(TcpSession& session) {
    std::string bytes;
    while (!session.out.empty()) {
      bytes += session.out.view();
      core.sent(session, session.out.size(), now);
    }
    return replies_in(bytes);
  }

  Reply ask(TcpSession& session, TcpOp op, std::int64_t number, std::initializer_list<std::string_view> texts) {
    feed(session, request(++last_id, op, number, texts));
    const std::vector<Reply> replies = take(session);
    REQUIRE(replies.size() == 1);
    CHECK(replies[0].id == last_id);
    return replies[0];
  }

  void pass(Duration time) {
    now += time;
    if (now >= core.next_expiry()) core.expire(now);
  }

  TcpCore core;
  std::string secret;
  Clock::time_point now{1000s};
  std::uint32_t last_id = 100;
};

std::string number_payload(std::int64_t n) {
  std::string out;
  put(out, n);
  return out;
}

}  // namespace

TEST_CASE("TcpCore answers requests however they are cut") {
  Bench bench;
  TcpSession& session = bench.client();
  const std::string all = request(1, TcpOp::set, 0, {"key", "value"}) + request(2, TcpOp::get, 0, {"key"}) +
                          request(3, TcpOp::add, -5, {"n"}) + request(4, TcpOp::check, 0, {"key", "n"}) +
                          request(5, TcpOp::compare_set, 0, {"key", "value", "new"}) +
                          request(6, TcpOp::compare_set, 0, {"key", "value", "newer"}) +
                          request(7, TcpOp::erase, 0, {"n"}) + request(8, TcpOp::erase, 0, {"n"}) +
                          request(9, TcpOp::check, 0, {"key", "n"}) + request(10, TcpOp::wait, 0, {});
  for (const std::size_t step : {std::size_t{1}, std::size_t{2}, std::size_t{7}, all.size()}) {
    for (std::size_t at = 0; at < all.size(); at += step) bench.feed(session, std::string_view(all).substr(at, step));
    const std::vector<Reply> replies = bench.take(session);
    REQUIRE(replies.size() == 10);
    const std::string expected[] = {
        "", "value", number_payload(-5), "\1", "new", "new", "\1", std::string(1, '\0'), std::string(1, '\0'), ""};
    for (std::uint32_t i = 0; i < 10; ++i) {
      CHECK(replies[i].id == i + 1);
      CHECK(replies[i].status == Status::ok);
      CHECK(replies[i].payload == expected[i]);
    }
  }
  CHECK(bench.core.stored_bytes() == 6);
  CHECK(bench.core.buffered_bytes() == 0);
}

TEST_CASE("TcpCore: a wait is parked, answered when its last key appears, and forgotten after its time") {
  Bench bench;
  TcpSession& waiter = bench.client();
  TcpSession& setter = bench.client();
  bench.feed(waiter, request(1, TcpOp::wait, 1000, {"a", "b"}));
  bench.feed(waiter, request(2, TcpOp::get, 1000, {"b"}));
  CHECK(bench.core.buffered_bytes() > 0);
  bench.ask(setter, TcpOp::set, 0, {"a", "1"});
  bench.ask(setter, TcpOp::erase, 0, {"a"});
  CHECK(bench.take(waiter).empty());
  bench.ask(setter, TcpOp::set, 0, {"b", "2"});
  const std::vector<Reply> got = bench.take(waiter);
  REQUIRE(got.size() == 1);  // a is gone again
  CHECK(got[0].id == 2);
  CHECK(got[0].payload == "2");
  bench.ask(setter, TcpOp::add, 1, {"a"});
  const std::vector<Reply> waited = bench.take(waiter);
  REQUIRE(waited.size() == 1);
  CHECK(waited[0].id == 1);
  CHECK(bench.core.buffered_bytes() == 0);

  bench.feed(waiter, request(3, TcpOp::get, 1000, {"c"}));
  bench.pass(900ms);
  CHECK(bench.core.buffered_bytes() > 0);
  bench.pass(1s);
  CHECK(bench.core.buffered_bytes() == 0);
  bench.ask(setter, TcpOp::compare_set, 0, {"c", "", "3"});
  CHECK(bench.take(waiter).empty());
}

TEST_CASE("TcpCore: errors of requests are answers") {
  Bench bench;
  TcpSession& session = bench.client();
  bench.ask(session, TcpOp::set, 0, {"text", "apple"});
  CHECK(bench.ask(session, TcpOp::add, 1, {"text"}).status == Status::not_a_number);
  bench.ask(session, TcpOp::set, 0, {"most", "9223372036854775807"});
  CHECK(bench.ask(session, TcpOp::add, 1, {"most"}).status == Status::overflow);
  CHECK(bench.ask(session, TcpOp::set, 0, {std::string(65, 'k'), ""}).status == Status::too_large);
  CHECK(bench.ask(session, TcpOp::set, 0, {"v", std::string(100001, 'v')}).status == Status::too_large);
  for (int i = 0; i < 3; ++i) bench.feed(session, request(1, TcpOp::get, 1000, {"late"}));
  CHECK(bench.ask(session, TcpOp::get, 1000, {"late"}).status == Status::no_room);
  CHECK_FALSE(session.dropped);
  CHECK_FALSE(session.closing);
}

TEST_CASE("TcpCore stores no more than it may, and replacing a value is not more") {
  Bench bench;
  TcpSession& session = bench.client();
  const std::string value(99990, 'v');
  for (const char* key : {"a", "b", "c"}) CHECK(bench.ask(session, TcpOp::set, 0, {key, value}).status == Status::ok);
  CHECK(bench.ask(session, TcpOp::set, 0, {"d", value}).status == Status::no_room);
  CHECK(bench.ask(session, TcpOp::compare_set, 0, {"d", "", value}).status == Status::no_room);
  CHECK(bench.ask(session, TcpOp::set, 0, {"a", value}).status == Status::ok);
  CHECK(bench.core.stored_bytes() <= 300000);
  bench.ask(session, TcpOp::erase, 0, {"b"});
  CHECK(bench.ask(session, TcpOp::set, 0, {"d", value}).status == Status::ok);
}

TEST_CASE("TcpCore drops strangers at their first wrong byte, and silent ones after a while") {
  const std::string hello = encode_hello({}, std::string(tcp_nonce_bytes, 'n'), card());
  std::string other_version = hello;
  other_version[4 + 7] = '\x02';
  const std::string cases[] = {"GET / HTTP/1.1\r\n\r\n", std::string(4, '\xff'), std::string(4, '\0'), other_version};
  for (const std::string& garbage : cases) {
    Bench bench;
    TcpSession& session = bench.stranger();
    bench.feed(session, garbage);
    CHECK(session.dropped);
    CHECK(bench.core.next_touched() == &session);
    bench.core.close(session);
    CHECK(bench.core.buffered_bytes() == 0);
    CHECK(bench.core.sessions() == 0);
  }
  Bench bench;
  TcpSession& half = bench.stranger();
  bench.feed(half, std::string_view(hello).substr(0, 40));
  bench.pass(9s);
  CHECK_FALSE(half.dropped);
  bench.pass(2s);
  CHECK(half.dropped);
}

TEST_CASE("TcpCore refuses a wrong secret, and nothing is served before the right one") {
  Bench bench(small_limits(), "open sesame");
  bench.client();
  TcpSession& guesser = bench.stranger();
  bench.feed(guesser, encode_hello("guess", guesser.nonce, card()) + request(1, TcpOp::set, 0, {"key", "value"}));
  CHECK(guesser.closing);
  const std::vector<Reply> replies = bench.take(guesser);
  REQUIRE(replies.size() == 2);
  CHECK(replies[1].status == Status::refused_secret);
  CHECK(bench.core.stored_bytes() == 0);
  TcpSession& hasty = bench.stranger();
  bench.feed(hasty, request(1, TcpOp::set, 0, {"key", "value"}));
  CHECK(hasty.dropped);
}

TEST_CASE("TcpCore ends a client whose requests make no sense") {
  std::string huge_count = request(1, TcpOp::wait, 0, {});
  huge_count[huge_count.size() - 1] = '\xff';
  std::string too_few = request(1, TcpOp::set, 0, {"key"});
  std::string trailing = request(1, TcpOp::get, 0, {"key"}) + "x";
  trailing[0] = static_cast<char>(trailing[0] + 1);
  std::string overlong_text = request(1, TcpOp::get, 0, {"key"});
  overlong_text[4 + tcp_request_head] = 4;
  const std::string cases[] = {std::string(4, '\xff'),
                               std::string(8, '\0'),
                               request(1, static_cast<TcpOp>(0), 0, {"key"}),
                               request(1, static_cast<TcpOp>(8), 0, {"key"}),
                               huge_count,
                               too_few,
                               trailing,
                               overlong_text};
  for (const std::string& garbage : cases) {
    Bench bench;
    TcpSession& session = bench.client();
    bench.feed(session, garbage);
    bench.feed(session, request(2, TcpOp::set, 0, {"key", "value"}));
    CHECK(session.closing);
    const std::vector<Reply> replies = bench.take(session);
    REQUIRE(replies.size() == 1);
    CHECK(replies[0].status == Status::bad_request);
    CHECK(bench.core.stored_bytes() == 0);
  }
}

TEST_CASE("TcpCore: a length that is announced costs nothing until its bytes arrive") {
  Bench bench;
  TcpSession& session = bench.client();
  std::string head;
  put(head, static_cast<std::uint32_t>(longest_request(small_limits())));
  bench.feed(session, head);
  CHECK(bench.core.buffered_bytes() == 4);
}

TEST_CASE("TcpCore: a slow reader is not read, then dropped; its replies stay bounded") {
  Bench bench;
  TcpSession& slow = bench.client();
  const std::string value(90000, 'v');
  bench.ask(slow, TcpOp::set, 0, {"key", value});
  for (std::uint32_t i = 0; i < 100; ++i) bench.feed(slow, request(i, TcpOp::get, 0, {"key"}));
  CHECK_FALSE(TcpCore::wants_input(slow));
  CHECK(slow.out.size() < 100000);
  // It reads on: all its replies come.
  CHECK(bench.take(slow).size() == 100);
  CHECK(TcpCore::wants_input(slow));
  bench.feed(slow, request(1, TcpOp::get, 0, {"key"}));
  bench.pass(29s);
  bench.core.sent(slow, 10, bench.now);  // a little counts
  bench.pass(29s);
  CHECK_FALSE(slow.dropped);
  bench.pass(2s);
  CHECK(slow.dropped);
}

TEST_CASE("TcpCore: waits that are answered at once do not grow a slow reader without bound") {
  Bench bench;
  TcpSession& slow = bench.client();
  TcpSession& setter = bench.client();
  const std::string value(99000, 'v');
  for (int round = 0; round < 20 && !slow.dropped; ++round) {
    for (std::uint32_t i = 0; i < 3; ++i) bench.feed(slow, request(i, TcpOp::get, 1000000, {"key"}));
    bench.ask(setter, TcpOp::set, 0, {"key", value});
    bench.ask(setter, TcpOp::erase, 0, {"key"});
    CHECK(slow.out.size() <= 600000);
  }
  CHECK_FALSE(TcpCore::wants_input(slow));
  CHECK(bench.core.buffered_bytes() <= 2000000);
}

TEST_CASE("TcpCore: all clients together buffer no more than the limit") {
  TcpStoreLimits limits = small_limits();
  limits.clients = 100;
  Bench bench(limits);
  std::string head;
  put(head, static_cast<std::uint32_t>(200000));
  int dropped = 0;
  for (int i = 0; i < 50; ++i) {
    TcpSession& session = bench.client();
    bench.feed(session, head + std::string(150000, 'x'));
    dropped += session.dropped ? 1 : 0;
    CHECK(bench.core.buffered_bytes() <= 2000000);
  }
  CHECK(dropped > 30);
  CHECK(dropped < 50);
}

TEST_CASE("TcpCore: a stranger makes room for the next, a client does not") {
  Bench bench;
  for (int i = 0; i < 3; ++i) bench.client();
  TcpSession& silent = bench.stranger();
  CHECK(bench.core.has_room());
  CHECK(silent.dropped);
  bench.client();
  CHECK_FALSE(bench.core.has_room());
}

TEST_CASE("TcpCore welcomes each rank once, and clients that name none as often as they like") {
  Bench bench;
  const auto status_of = [&](std::uint32_t rank) {
    TcpSession& session = bench.stranger();
    bench.feed(session, encode_hello({}, session.nonce, card(rank)));
    const Status status = bench.take(session).at(1).status;
    const bool ends = session.closing;
    CHECK(bench.core.next_touched() == &session);
    bench.core.close(session);
    CHECK(ends == (status != Status::ok));
    return status;
  };
  CHECK(status_of(0) == Status::ok);
  CHECK(status_of(1) == Status::ok);
  CHECK(status_of(tcp_any_rank) == Status::ok);
  CHECK(status_of(tcp_any_rank) == Status::ok);
  CHECK_FALSE(bench.core.step_back());
  CHECK(status_of(1) == Status::refused_again);
  CHECK(bench.core.step_back());
  CHECK_FALSE(bench.core.step_back());
}

namespace {

/// A real server, and plain sockets to it.
struct Served {
  explicit Served(const TcpStoreLimits& limits = {}) : server(listen_at("test", "127.0.0.1", 0), {}, limits, "test") {}

  UniqueFd connect() const {
    int number = 0;
    UniqueFd fd = connect_to(server.address(), Deadline::after(20s), number);
    REQUIRE(fd);
    return fd;
  }

  static void say(const UniqueFd& fd, std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n > 0) bytes.remove_prefix(static_cast<std::size_t>(n));
      if (n < 0 && errno == EAGAIN) {
        pollfd one = {fd.get(), POLLOUT, 0};
        if (::poll(&one, 1, 20000) == 0) FAIL("the server does not read");
      } else if (n < 0) {
        return;
      }
    }
  }

  /// Reads until there are `bytes`, or the server hangs up; then `ended`.
  static std::string hear(const UniqueFd& fd, std::size_t bytes, bool& ended) {
    std::string out;
    char chunk[4096];
    ended = false;
    while (out.size() < bytes && !ended) {
      pollfd one = {fd.get(), POLLIN, 0};
      REQUIRE(::poll(&one, 1, 20000) == 1);
      const ssize_t n = ::recv(fd.get(), chunk, sizeof chunk, 0);
      if (n > 0) out.append(chunk, static_cast<std::size_t>(n));
      ended = n == 0 || (n < 0 && errno != EAGAIN);
    }
    return out;
  }

  static constexpr std::size_t greeting_bytes = 4 + tcp_reply_head + 8 + tcp_nonce_bytes;
  static constexpr std::size_t welcome_bytes = 4 + tcp_reply_head + sizeof(Digest) + 16;

  UniqueFd client() const {
    UniqueFd fd = connect();
    bool ended = false;
    const std::string greeting = hear(fd, greeting_bytes, ended);
    REQUIRE(greeting.size() == greeting_bytes);
    say(fd, encode_hello({}, greeting.substr(greeting_bytes - tcp_nonce_bytes), card()));
    REQUIRE(hear(fd, welcome_bytes, ended).size() == welcome_bytes);
    return fd;
  }

  void check_alive(const UniqueFd& client) {
    say(client, request(++last_id, TcpOp::add, 1, {"alive"}));
    bool ended = false;
    const std::vector<Reply> replies = replies_in(hear(client, 4 + tcp_reply_head + 8, ended));
    REQUIRE(replies.size() == 1);
    CHECK(replies[0].payload == number_payload(++alive));
  }

  TcpServer server;
  std::uint32_t last_id = 0;
  std::int64_t alive = 0;
};

}  // namespace

TEST_CASE("a server outlives garbage, half frames, huge lengths and strangers that hang up") {
  Served served;
  const UniqueFd good = served.client();
  std::string noise;
  for (std::uint32_t i = 0, x = 1; i < 100000; ++i) {
    x = x * 1664525U + 1013904223U;
    noise += static_cast<char>(x >> 24);
  }
  bool ended = false;
  for (const std::string& garbage : {std::string("GET / HTTP/1.1\r\n\r\n"), std::string(4, '\xff'), noise}) {
    const UniqueFd stranger = served.connect();
    served.say(stranger, garbage);
    served.hear(stranger, 1 << 20, ended);
    CHECK(ended);
    served.check_alive(good);
  }
  for (int i = 0; i < 20; ++i) {
    const UniqueFd stranger = served.connect();
    served.say(stranger, noise.substr(0, static_cast<std::size_t>(i % 4)));
  }
  served.check_alive(good);
  {
    const UniqueFd liar = served.client();
    served.say(liar, std::string(4, '\xff') + "abc");
    const std::vector<Reply> replies = replies_in(served.hear(liar, 1 << 20, ended));
    CHECK(ended);
    REQUIRE(replies.size() == 1);
    CHECK(replies[0].status == Status::bad_request);
  }
  for (int i = 0; i < 20; ++i) {
    const UniqueFd half = served.client();
    served.say(half, request(1, TcpOp::set, 0, {"half", "value"}).substr(0, 20));
  }
  served.check_alive(good);
}

TEST_CASE("a server hangs up on a silent stranger and on a client that takes no replies") {
  TcpStoreLimits limits;
  limits.handshake_timeout = 1s;
  limits.stall_timeout = 100ms;
  Served served(limits);
  const UniqueFd good = served.client();
  const UniqueFd slow = served.client();
  const std::string value(8000000, 'v');
  served.say(slow, request(1, TcpOp::set, 0, {"value", value}));
  bool ended = false;
  CHECK(served.hear(slow, 4 + tcp_reply_head, ended).size() == 4 + tcp_reply_head);
  for (std::uint32_t i = 0; i < 4; ++i) served.say(slow, request(i, TcpOp::get, 0, {"value"}));
  const UniqueFd silent = served.connect();
  CHECK(served.hear(silent, 1 << 20, ended).size() == Served::greeting_bytes);
  CHECK(ended);
  served.check_alive(good);
  std::this_thread::sleep_for(300ms);
  const std::string heard = served.hear(slow, 4 * value.size(), ended);
  CHECK(ended);
  CHECK(heard.size() < 4 * value.size());
  served.check_alive(good);
}

TEST_CASE("a server refuses one client too many, clearly") {
  TcpStoreLimits limits;
  limits.clients = 2;
  Served served(limits);
  const UniqueFd one = served.client();
  {
    const UniqueFd two = served.client();
    const UniqueFd three = served.connect();
    bool ended = false;
    const std::vector<Reply> replies = replies_in(served.hear(three, 1 << 20, ended));
    CHECK(ended);
    REQUIRE(replies.size() == 1);
    CHECK(replies[0].status == Status::refused_full);
    CHECK(replies[0].payload == "2");
  }
  served.check_alive(one);
  // The second has left, and its place is free, at once or soon.
  for (int tries = 0;; ++tries) {
    const UniqueFd again = served.connect();
    bool ended = false;
    if (served.hear(again, Served::greeting_bytes, ended).size() == Served::greeting_bytes) break;
    REQUIRE(tries < 1000);
    std::this_thread::sleep_for(10ms);
  }
}

TEST_CASE("a server refuses limits that contradict each other") {
  TcpStoreLimits limits;
  limits.client_buffered_bytes = limits.value_bytes;
  CHECK_THROWS_AS(Served{limits}, UsageError);
  limits = {};
  limits.value_bytes = std::size_t{2} << 30;
  CHECK_THROWS_AS(Served{limits}, UsageError);
}
