// SPDX-License-Identifier: Apache-2.0
#pragma once

/// How a TcpStore's client and server talk. Integers are little-endian; a frame is `u32 body_bytes | body`.
///
///   server: greeting   u32 0 | u8 Status::greeting | magic[8] | nonce[32]        (or a refusal, see Status)
///   client: hello      magic[8] | c = (u32 rank or tcp_any_rank | nonce[32])
///                      | HMAC-SHA256(secret, "client" | server's nonce | c)
///   server: welcome    u32 0 | u8 Status::ok | HMAC-SHA256(secret, "server" | server's nonce | c)
///                      | u64 key_bytes | u64 value_bytes            (or a refusal)
///   client: request    u32 id | u8 TcpOp | i64 number | u32 texts | (u32 bytes | bytes) each
///   server: reply      u32 id | u8 Status | payload
///
/// Requests of one connection may be answered out of order: a get or wait is answered once its keys exist, and never
/// after its time (the request's number, in milliseconds) has passed. Ids start at 1.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <allfold/base/concat.hpp>
#include <allfold/base/config.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/store/sha256.hpp>

namespace allfold {

/// What a TcpStore's server grants; together they bound its memory, whatever its clients do.
struct TcpStoreLimits {
  /// Connections served at once. One more is refused, unless a stranger that has not said hello can make room.
  std::size_t clients = 1024;
  /// The longest key and the longest value, in bytes.
  std::size_t key_bytes = 4096;
  std::size_t value_bytes = std::size_t{64} << 20;
  /// Bytes of all keys and values.
  std::size_t stored_bytes = std::size_t{1} << 30;
  /// Bytes of half-received requests, parked waits and unsent replies: of all clients, and of one.
  std::size_t buffered_bytes = std::size_t{1} << 30;
  std::size_t client_buffered_bytes = std::size_t{256} << 20;
  /// Waits of one client that are parked at once.
  std::size_t client_waits = 256;
  /// How long a connection may take to say hello, and how long a client may take none of its replies.
  Duration handshake_timeout = std::chrono::seconds(10);
  Duration stall_timeout = std::chrono::seconds(30);
};

namespace detail {

inline constexpr std::string_view tcp_magic = "allfold\x01";  // the last byte is the protocol's version
inline constexpr std::size_t tcp_nonce_bytes = 32;
inline constexpr std::size_t tcp_card_bytes = 4 + tcp_nonce_bytes;
inline constexpr std::size_t tcp_hello_bytes = 8 + tcp_card_bytes + sizeof(Digest);
inline constexpr std::uint32_t tcp_any_rank = 0xffffffff;
inline constexpr std::size_t tcp_reply_head = 5;     // id, status
inline constexpr std::size_t tcp_request_head = 17;  // id, operation, number, count of texts

enum class TcpOp : std::uint8_t { set = 1, get, wait, add, check, erase, compare_set };

enum class Status : std::uint8_t {
  ok,
  greeting,
  refused_full,    ///< instead of a greeting
  refused_secret,  ///< instead of a welcome
  refused_again,   ///< likewise: this rank has joined before, so it means the server's successor
  not_a_number,    ///< payload: the value
  overflow,        ///< payload: the value
  too_large,       ///< a key or a value; payload: a sentence
  no_room,         ///< one of the server's limits; payload: a sentence
  bad_request,     ///< the connection ends; payload: a sentence
};

template <class Integer>
void put(std::string& out, Integer value) {
  for (std::size_t i = 0; i < sizeof value; ++i) out += static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i));
}

inline void put_text(std::string& out, std::string_view text) {
  put(out, static_cast<std::uint32_t>(text.size()));
  out += text;
}

/// Takes fields off the front of a frame. What is not there reads as zero or empty, and `ok` turns false.
struct TcpReader {
  std::string_view rest;
  bool ok = true;

  std::string_view bytes(std::size_t n) noexcept {
    if (n > rest.size()) {
      ok = false;
      rest = {};
      return {};
    }
    const std::string_view out = rest.substr(0, n);
    rest.remove_prefix(n);
    return out;
  }

  template <class Integer>
  Integer integer() noexcept {
    std::uint64_t value = 0;
    int shift = 0;
    for (const char c : bytes(sizeof(Integer))) {
      value |= std::uint64_t{static_cast<unsigned char>(c)} << shift;
      shift += 8;
    }
    return static_cast<Integer>(value);
  }

  std::string_view text() noexcept { return bytes(integer<std::uint32_t>()); }
};

/// Bytes that arrived or are to leave: appended at the back, taken at the front.
class TcpBuffer {
 public:
  std::string_view view() const noexcept { return std::string_view(bytes_).substr(taken_); }
  bool empty() const noexcept { return taken_ == bytes_.size(); }
  std::size_t size() const noexcept { return bytes_.size() - taken_; }
  void append(std::string_view bytes) { bytes_ += bytes; }

  void take(std::size_t n) {
    taken_ += n;
    if (taken_ == bytes_.size()) {
      if (bytes_.capacity() > keep) std::string().swap(bytes_);  // a large message is rare: give its memory back
      bytes_.clear();
      taken_ = 0;
    } else if (taken_ > keep && taken_ > bytes_.size() / 2) {
      bytes_.erase(0, taken_);
      taken_ = 0;
    }
  }

  /// Removes the last `n` bytes, which were appended last and are not taken.
  void drop_back(std::size_t n) { bytes_.resize(bytes_.size() - n); }

 private:
  static constexpr std::size_t keep = 65536;
  std::string bytes_;
  std::size_t taken_ = 0;
};

ALLFOLD_COLD inline std::string encode_reply(std::uint32_t id, Status status, std::string_view payload) {
  std::string out;
  out.reserve(4 + tcp_reply_head + payload.size());
  put(out, static_cast<std::uint32_t>(tcp_reply_head + payload.size()));
  put(out, id);
  put(out, static_cast<std::uint8_t>(status));
  out += payload;
  return out;
}

ALLFOLD_COLD inline std::string encode_request(std::uint32_t id, TcpOp op, std::int64_t number,
                                               std::span<const std::string_view> texts) {
  std::size_t bytes = tcp_request_head;
  for (const std::string_view text : texts) bytes += 4 + text.size();
  std::string out;
  out.reserve(4 + bytes);
  put(out, static_cast<std::uint32_t>(bytes));
  put(out, id);
  put(out, static_cast<std::uint8_t>(op));
  put(out, number);
  put(out, static_cast<std::uint32_t>(texts.size()));
  for (const std::string_view text : texts) put_text(out, text);
  return out;
}

/// Proves to the other side that `who` ("client" or "server") knows the secret.
ALLFOLD_COLD inline Digest tcp_proof(std::string_view secret, std::string_view who, std::string_view server_nonce,
                                     std::string_view card) {
  return hmac_sha256(secret, concat({who, server_nonce, card}));
}

/// Who a client is, and what makes its hello its own.
ALLFOLD_COLD inline std::string tcp_card(std::uint32_t rank, std::string_view nonce) {
  std::string out;
  put(out, rank);
  out += nonce;
  return out;
}

ALLFOLD_COLD inline std::string encode_hello(std::string_view secret, std::string_view server_nonce,
                                             std::string_view card) {
  std::string out;
  put(out, static_cast<std::uint32_t>(tcp_hello_bytes));
  out += tcp_magic;
  out += card;
  out += text(tcp_proof(secret, "client", server_nonce, card));
  return out;
}

/// The longest body of a request under `limits`.
inline std::size_t longest_request(const TcpStoreLimits& limits) noexcept {
  return tcp_request_head + 3 * 4 + limits.key_bytes + 2 * limits.value_bytes;  // a compare_set
}

}  // namespace detail
}  // namespace allfold
