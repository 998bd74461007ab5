// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <allfold/base/concat.hpp>
#include <allfold/base/config.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>

namespace allfold {

/// The deadline of a store's call that names none: 30 seconds from now.
inline Deadline default_store_deadline() { return Deadline::after(std::chrono::seconds(30)); }

namespace detail {

/// A key as a message shows it: quoted, other than printable ASCII as \xx, and cut where it is long.
ALLFOLD_COLD inline std::string quoted_key(std::string_view key) {
  constexpr std::size_t longest = 80;
  constexpr char hex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : key.substr(0, longest)) {
    const unsigned byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f && c != '"' && c != '\\') {
      out += c;
    } else {
      out += {'\\', hex[byte / 16], hex[byte % 16]};
    }
  }
  out += '"';
  if (key.size() > longest) out += concat({".. (", key.size(), " bytes)"});
  return out;
}

/// The keys of one wait, for a message.
ALLFOLD_COLD inline std::string quoted_key(std::span<const std::string> keys) {
  std::string out;
  for (std::size_t i = 0; i < keys.size() && i < 4; ++i) out += (i == 0 ? "" : ", ") + quoted_key(keys[i]);
  if (keys.size() > 4) out += concat({" and ", keys.size() - 4, " more"});
  return out;
}

/// A timeout for a message, in milliseconds; rounded up, for some of it has passed already.
constexpr long long whole_ms(Duration timeout) { return milliseconds(timeout + std::chrono::nanoseconds(999999)); }

/// How `add_decimal` ended.
enum class Addition : std::uint8_t { ok, not_a_number, overflow };

/// Adds `n` to the decimal number `text` (an optional minus sign and digits, nothing else).
ALLFOLD_COLD inline Addition add_decimal(std::string_view text, std::int64_t n, std::int64_t& sum) noexcept {
  const bool negative = !text.empty() && text.front() == '-';
  if (negative) text.remove_prefix(1);
  if (text.empty()) return Addition::not_a_number;
  std::int64_t value = 0;
  bool overflows = false;
  for (const char c : text) {
    if (c < '0' || c > '9') return Addition::not_a_number;
    const int digit = negative ? '0' - c : c - '0';
    overflows = overflows || __builtin_mul_overflow(value, std::int64_t{10}, &value) ||
                __builtin_add_overflow(value, static_cast<std::int64_t>(digit), &value);
  }
  if (overflows || __builtin_add_overflow(value, n, &sum)) return Addition::overflow;
  return Addition::ok;
}

[[noreturn]] ALLFOLD_COLD inline void throw_bad_sum(const Where& where, Addition sum, std::string_view key,
                                                    std::int64_t n, std::string_view value) {
  if (sum == Addition::overflow) {
    throw UsageError(where,
                     {"adding ", n, " to key ", quoted_key(key), " overflows; expected a sum within 64 bits, got ",
                      quoted_key(value), " plus ", n, "; try a smaller number"});
  }
  throw UsageError(where, {"key ", quoted_key(key), " holds no number; expected decimal digits, got ",
                           quoted_key(value), "; try another key for the counter"});
}

[[noreturn]] ALLFOLD_COLD inline void throw_key_missing(const Where& where, std::string_view key, Duration timeout) {
  throw TimeoutError(where, -1,
                     {"key ", quoted_key(key), " did not appear; expected it within ", whole_ms(timeout),
                      " ms, got none; try a longer deadline, or see why the rank that sets it is late"});
}

}  // namespace detail
}  // namespace allfold
