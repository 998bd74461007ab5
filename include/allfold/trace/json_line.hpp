// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace allfold::detail {

/// How many bytes of `text`, which is not empty, are its first character in UTF-8; 0 if it begins with none.
inline std::size_t utf8_length(std::string_view text) noexcept {
  const auto at = [&](std::size_t i) { return static_cast<unsigned>(static_cast<unsigned char>(text[i])); };
  const unsigned first = at(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  // The second byte tells what only looks like a character: too long a form, half of a surrogate pair, past the last.
  const unsigned low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const unsigned high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (at(1) < low || at(1) > high) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if ((at(i) & 0xc0U) != 0x80) return 0;
  }
  return length;
}

/// Appends `text` as a string of JSON. Bytes that are no UTF-8 become U+FFFD each.
inline void append_json_string(std::string& out, std::string_view text) {
  constexpr char hex[] = "0123456789abcdef";
  out += '"';
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const char first = text[0];
    if (length == 0) {
      out += "\\ufffd";
    } else if (first == '"' || first == '\\') {
      out += {'\\', first};
    } else if (static_cast<unsigned char>(first) < 0x20) {
      out += {'\\', 'u', '0', '0', hex[first / 16], hex[first % 16]};
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  out += '"';
}

/// Appends one object of JSON and a newline to a text, member by member.
class JsonLine {
 public:
  /// The first member: what the line is.
  JsonLine(std::string& out, std::string_view kind) : out_(out) {
    out_ += '{';
    text("kind", kind);
  }
  ~JsonLine() = default;
  JsonLine(const JsonLine&) = delete;
  JsonLine& operator=(const JsonLine&) = delete;

  void text(std::string_view key, std::string_view value) {
    begin(key);
    append_json_string(out_, value);
  }
  template <std::integral Number>
  void number(std::string_view key, Number value) {
    begin(key);
    append(value);
  }
  void numbers(std::string_view key, std::span<const std::size_t> values) {
    begin(key);
    out_ += '[';
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i > 0) out_ += ',';
      append(values[i]);
    }
    out_ += ']';
  }
  /// An instant in microseconds, to the nanosecond.
  void microseconds(std::string_view key, std::chrono::nanoseconds instant) {
    begin(key);
    const long long ns = instant.count() < 0 ? 0 : instant.count();
    append(ns / 1000);
    const auto digit = [&](long long place) { return static_cast<char>('0' + ns / place % 10); };
    out_ += {'.', digit(100), digit(10), digit(1)};
  }
  void end() { out_ += "}\n"; }

 private:
  void begin(std::string_view key) {
    if (out_.back() != '{') out_ += ',';
    out_ += '"';
    out_ += key;
    out_ += "\":";
  }
  template <std::integral Number>
  void append(Number value) {
    char digits[24];
    const auto [last, error] = std::to_chars(digits, digits + sizeof digits, value);
    static_cast<void>(error);
    out_.append(digits, last);
  }

  std::string& out_;
};

}  // namespace allfold::detail
