// SPDX-License-Identifier: Apache-2.0
/// Feeds a TcpStore's server, without sockets and with a clock of its own, and checks that it stays within its limits.
///
/// The input is a list of steps. The first byte of each is the connection (low two bits) and the action (next three):
///   0 feed   u8 n, n bytes          the connection's bytes as they are
///   1 frame  u8 n, n bytes          the same with their length before them
///   2 hello  u8 rank                what a client says that knows the secret; 255: of any rank
///   3 take   u8 n                   n of the server's bytes leave
///   4 wait   u8 n                   n times 100 ms pass
///   5 close                         the connection ends; the next step opens another
///   6 flood  u8 n, u8 m, n bytes    a frame of n bytes, m times
///   7 stop                          the server is told to end
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include <allfold/store/tcp_session.hpp>

using namespace allfold::detail;

namespace {

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

class Machine {
 public:
  Machine() : core_(secret, limits()) {}

  void run(TcpReader input) {
    while (!input.rest.empty()) {
      const unsigned step = input.integer<std::uint8_t>();
      TcpSession*& session = sessions_[step & 3];
      if (session == nullptr) open(step & 3);
      if (session != nullptr) act(step >> 2 & 7, step & 3, input);
      settle();
      check();
    }
    for (std::size_t i = 0; i < 4; ++i) {
      if (sessions_[i] != nullptr) close(i);
    }
    expect(core_.buffered_bytes() == 0, "a connection that ended leaves no byte counted");
    expect(core_.sessions() == 0, "every connection was closed");
  }

 private:
  static constexpr const char* secret = "secret";

  static allfold::TcpStoreLimits limits() {
    allfold::TcpStoreLimits out;
    out.clients = 3;
    out.key_bytes = 16;
    out.value_bytes = 64;
    out.stored_bytes = 512;
    out.buffered_bytes = 4096;
    out.client_buffered_bytes = 2048;
    out.client_waits = 3;
    return out;
  }

  void open(std::size_t i) {
    if (!core_.has_room()) return;
    const std::string nonce(tcp_nonce_bytes, static_cast<char>('a' + opened_++ % 26));
    sessions_[i] = &core_.open(nonce, now_);
    heard_[i].clear();
  }

  void close(std::size_t i) {
    TcpSession* const session = sessions_[i];
    // A session on the list of touched ones must be taken from there before it goes.
    if (session->touched) {
      core_.drop(*session);
      settle();
    } else {
      core_.close(*session);
      sessions_[i] = nullptr;
    }
  }

  void act(unsigned action, std::size_t i, TcpReader& input) {
    TcpSession& session = *sessions_[i];
    switch (action) {
      case 0: feed(session, input.bytes(length(input))); break;
      case 1: {
        std::string frame;
        put_text(frame, input.bytes(length(input)));
        feed(session, frame);
        break;
      }
      case 2: {
        const std::uint32_t rank = input.integer<std::uint8_t>();
        const std::string card = tcp_card(rank == 255 ? tcp_any_rank : rank, std::string(tcp_nonce_bytes, 'c'));
        feed(session, encode_hello(secret, session.nonce, card));
        break;
      }
      case 3: take(i, input.integer<std::uint8_t>()); break;
      case 4:
        now_ += std::chrono::milliseconds(100 * input.integer<std::uint8_t>());
        if (now_ >= core_.next_expiry()) core_.expire(now_);
        expect(core_.next_expiry() > now_, "what has expired is not to expire again");
        break;
      case 5: close(i); break;
      case 6: {
        const std::size_t n = length(input);
        const unsigned times = input.integer<std::uint8_t>();
        std::string frame;
        put_text(frame, input.bytes(n < input.rest.size() ? n : input.rest.size()));
        for (unsigned k = 0; k < times; ++k) feed(session, frame);
        break;
      }
      default: core_.close_all(now_ + std::chrono::seconds(1));
    }
  }

  static std::size_t length(TcpReader& input) {
    const std::size_t n = input.integer<std::uint8_t>();
    return n < input.rest.size() ? n : input.rest.size();
  }

  void feed(TcpSession& session, std::string_view bytes) {
    if (TcpCore::wants_input(session)) core_.feed(session, bytes, now_);
  }

  void take(std::size_t i, std::size_t n) {
    TcpSession& session = *sessions_[i];
    const std::string_view out = session.out.view();
    n = n < out.size() ? n : out.size();
    heard_[i] += out.substr(0, n);
    core_.sent(session, n, now_);
    // What has been sent is a sequence of replies, and perhaps the beginning of one more.
    for (;;) {
      TcpReader reader{heard_[i]};
      const std::size_t bytes = reader.integer<std::uint32_t>();
      if (!reader.ok) break;
      expect(bytes >= tcp_reply_head && bytes <= 1024, "a reply has a sensible length");
      const std::string_view body = reader.bytes(bytes);
      if (!reader.ok) break;
      expect(static_cast<unsigned char>(body[4]) <= static_cast<unsigned>(Status::bad_request), "a reply has a status");
      heard_[i].erase(0, 4 + bytes);
    }
  }

  /// What the server's thread does after each batch, except that only take() sends.
  void settle() {
    while (TcpSession* const session = core_.next_touched()) {
      session->touched = false;
      if (!session->dropped && !(session->closing && session->out.empty())) continue;
      for (TcpSession*& one : sessions_) {
        if (one == session) one = nullptr;
      }
      core_.close(*session);
    }
  }

  void check() const {
    std::size_t sum = 0;
    for (const TcpSession* const session : sessions_) {
      if (session == nullptr) continue;
      const std::size_t bytes = session->in.size() + session->out.size() + session->waiter_bytes;
      expect(bytes == session->counted, "every byte of a connection is counted");
      expect(bytes <= 2048 + 1024, "a connection stays within its limit");
      expect(session->waiters.size() <= 3, "a connection's waits stay within their limit");
      sum += bytes;
    }
    expect(core_.buffered_bytes() == sum, "all connections' bytes are counted");
    expect(sum <= 4096 + 4 * 1024, "all connections stay within their limit");
    expect(core_.stored_bytes() <= 512, "what is stored stays within its limit");
    expect(core_.sessions() <= 3, "connections stay within their limit");
  }

  TcpCore core_;
  TcpSession* sessions_[4] = {};
  std::string heard_[4];
  unsigned opened_ = 0;
  allfold::Clock::time_point now_{std::chrono::seconds(1000)};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Machine().run({std::string_view(reinterpret_cast<const char*>(data), size)});
  return 0;
}
