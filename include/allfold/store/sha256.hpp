// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include <allfold/base/config.hpp>

namespace allfold::detail {

using Digest = std::array<unsigned char, 32>;

inline std::string_view text(const Digest& digest) noexcept {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

/// SHA-256 (FIPS 180-4) of what `update` is fed.
class Sha256 {
 public:
  ALLFOLD_COLD void update(std::string_view bytes) noexcept {
    total_ += bytes.size();
    while (!bytes.empty()) {
      const std::size_t room = sizeof block_ - used_;
      const std::size_t n = bytes.size() < room ? bytes.size() : room;
      std::memcpy(block_ + used_, bytes.data(), n);
      bytes.remove_prefix(n);
      used_ += n;
      if (used_ == sizeof block_) mix();
    }
  }

  ALLFOLD_COLD Digest finish() noexcept {
    const std::uint64_t bits = total_ * 8;
    block_[used_++] = 0x80;
    if (used_ > sizeof block_ - 8) pad(sizeof block_);
    if (used_ == sizeof block_) mix();
    pad(sizeof block_ - 8);
    for (int i = 0; i < 8; ++i) block_[used_++] = static_cast<unsigned char>(bits >> (56 - 8 * i));
    mix();
    Digest out;
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = static_cast<unsigned char>(state_[i / 4] >> (24 - 8 * (i % 4)));
    }
    return out;
  }

 private:
  static constexpr std::uint32_t rotate(std::uint32_t x, int n) noexcept { return (x >> n) | (x << (32 - n)); }

  void pad(std::size_t end) noexcept {
    while (used_ < end) block_[used_++] = 0;
  }

  ALLFOLD_COLD void mix() noexcept {
    static constexpr std::uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    std::uint32_t w[64];
    for (int i = 0; i < 16; ++i) {
      w[i] = 0;
      for (int j = 0; j < 4; ++j) w[i] = (w[i] << 8) | block_[4 * i + j];
    }
    for (int i = 16; i < 64; ++i) {
      const std::uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ (a >> 3)) + w[i - 7] +
             (rotate(b, 17) ^ rotate(b, 19) ^ (b >> 10));
    }
    std::uint32_t s[8];
    std::memcpy(s, state_, sizeof s);
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t t1 = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
                               ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
      const std::uint32_t t2 =
          (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      for (int j = 7; j > 0; --j) s[j] = s[j - 1];
      s[4] += t1;
      s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; ++i) state_[i] += s[i];
    used_ = 0;
  }

  std::uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                             0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::uint64_t total_ = 0;
  std::size_t used_ = 0;
  unsigned char block_[64] = {};
};

ALLFOLD_COLD inline Digest sha256(std::string_view bytes) noexcept {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

/// HMAC-SHA256 (RFC 2104).
ALLFOLD_COLD inline Digest hmac_sha256(std::string_view key, std::string_view message) noexcept {
  Digest short_key;
  if (key.size() > 64) {
    short_key = sha256(key);
    key = text(short_key);
  }
  char pad[64] = {};
  if (!key.empty()) std::memcpy(pad, key.data(), key.size());
  for (char& c : pad) c = static_cast<char>(c ^ 0x36);
  Sha256 inner;
  inner.update({pad, sizeof pad});
  inner.update(message);
  const Digest digest = inner.finish();
  for (char& c : pad) c = static_cast<char>(c ^ 0x36 ^ 0x5c);
  Sha256 outer;
  outer.update({pad, sizeof pad});
  outer.update(text(digest));
  return outer.finish();
}

/// Whether two texts of one length are equal, in a time that does not depend on where they differ.
inline bool equal_in_constant_time(std::string_view a, std::string_view b) noexcept {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

}  // namespace allfold::detail
