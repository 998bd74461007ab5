// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <allfold/base/config.hpp>

namespace allfold {

namespace detail {

/// The bfloat16 pattern nearest to `value`, ties to even. Straight-line code, so that a loop over it vectorizes.
ALLFOLD_HD constexpr std::uint16_t narrow_to_bfloat16(float value) noexcept {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, value);
  const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40U;
  return static_cast<std::uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? nan : rounded);
}

/// The float of a bfloat16 pattern: exact.
ALLFOLD_HD constexpr float widen_from_bfloat16(std::uint16_t bits) noexcept {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
}

}  // namespace detail

/// The upper half of a float in two bytes, on hosts and in kernels, without a CUDA header. A type to store and to
/// send: arithmetic is the caller's, in float. The default constructor leaves it uninitialized.
class bfloat16 {
 public:
  bfloat16() = default;
  /// The nearest bfloat16, ties to even; a NaN stays one and becomes quiet.
  ALLFOLD_HD constexpr explicit bfloat16(float value) noexcept : bits_(detail::narrow_to_bfloat16(value)) {}
  ALLFOLD_HD static constexpr bfloat16 from_bits(std::uint16_t bits) noexcept {
    bfloat16 out(0.0F);
    out.bits_ = bits;
    return out;
  }

  ALLFOLD_HD constexpr std::uint16_t bits() const noexcept { return bits_; }
  ALLFOLD_HD constexpr explicit operator float() const noexcept { return detail::widen_from_bfloat16(bits_); }

  /// As of floats: a NaN equals nothing, and -0 equals 0.
  ALLFOLD_HD friend constexpr bool operator==(bfloat16 a, bfloat16 b) noexcept { return float(a) == float(b); }
  ALLFOLD_HD friend constexpr bool operator<(bfloat16 a, bfloat16 b) noexcept { return float(a) < float(b); }
  ALLFOLD_HD friend constexpr bool operator>(bfloat16 a, bfloat16 b) noexcept { return float(a) > float(b); }
  ALLFOLD_HD friend constexpr bool operator<=(bfloat16 a, bfloat16 b) noexcept { return float(a) <= float(b); }
  ALLFOLD_HD friend constexpr bool operator>=(bfloat16 a, bfloat16 b) noexcept { return float(a) >= float(b); }

 private:
  std::uint16_t bits_;
};

}  // namespace allfold
