// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include <allfold/base/config.hpp>

namespace allfold {

/// One piece of a message: text, or a whole number. It refers to text that must live as long as the expression
/// it stands in.
class TextPiece {
 public:
  constexpr TextPiece(const char* text) noexcept : text_(text) {}
  constexpr TextPiece(std::string_view text) noexcept : text_(text) {}
  TextPiece(const std::string& text) noexcept : text_(text) {}
  constexpr TextPiece(int number) noexcept : TextPiece(static_cast<long long>(number)) {}
  constexpr TextPiece(long number) noexcept : TextPiece(static_cast<long long>(number)) {}
  constexpr TextPiece(long long number) noexcept
      : magnitude_(number < 0 ? 0ULL - static_cast<unsigned long long>(number)
                              : static_cast<unsigned long long>(number)),
        kind_(number < 0 ? Kind::negative : Kind::natural) {}
  constexpr TextPiece(unsigned number) noexcept : TextPiece(static_cast<unsigned long long>(number)) {}
  constexpr TextPiece(unsigned long number) noexcept : TextPiece(static_cast<unsigned long long>(number)) {}
  constexpr TextPiece(unsigned long long number) noexcept : magnitude_(number), kind_(Kind::natural) {}

  void append_to(std::string& out) const {
    if (kind_ == Kind::text) {
      out.append(text_);
      return;
    }
    char digits[24];
    char* first = digits + sizeof digits;
    unsigned long long rest = magnitude_;
    do {
      *--first = static_cast<char>('0' + rest % 10);
      rest /= 10;
    } while (rest != 0);
    if (kind_ == Kind::negative) *--first = '-';
    out.append(first, static_cast<std::size_t>(digits + sizeof digits - first));
  }

 private:
  enum class Kind : unsigned char { text, natural, negative };

  std::string_view text_;
  unsigned long long magnitude_ = 0;
  Kind kind_ = Kind::text;
};

using TextPieces = std::initializer_list<TextPiece>;

/// The pieces one after another: `concat({"rank ", 3, " of ", 8})`.
ALLFOLD_COLD inline std::string concat(TextPieces pieces) {
  std::string out;
  for (const TextPiece& piece : pieces) piece.append_to(out);
  return out;
}

}  // namespace allfold
