// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <allfold/base/config.hpp>

namespace allfold {

namespace detail {

/// `yes` where all bits of `mask` are set, `no` where none is. A branch would keep g++ from vectorizing the loop.
ALLFOLD_HD constexpr std::int32_t select_bits(std::int32_t mask, std::int32_t yes, std::int32_t no) noexcept {
  return no ^ ((no ^ yes) & mask);
}

/// All bits set if a < b; both at least 0.
ALLFOLD_HD constexpr std::int32_t less_mask(std::int32_t a, std::int32_t b) noexcept { return (a - b) >> 31; }

/// The float16 pattern nearest to `value`, ties to even: bit for bit what the conversion instructions of x86 and
/// ARM give, NaNs included. Those would not be faster: compilers vectorize this and not them.
ALLFOLD_HD constexpr std::uint16_t narrow_to_float16(float value) noexcept {
  const std::int32_t bits = __builtin_bit_cast(std::int32_t, value);
  const std::int32_t magnitude = bits & 0x7fffffff;
  const std::int32_t top = magnitude >> 13;
  // From 2^-14 up: the exponent's bias goes from 127 to 15, and 13 bits are rounded off.
  const std::int32_t normal = (magnitude + (0xfff - 0x38000000) + (top & 1)) >> 13;
  // Below: in the sum with 0.5 the last bit is worth 2^-24, as a subnormal's is. A mode that flushes subnormal
  // floats does no harm: they are zero in float16.
  const std::int32_t subnormal =
      __builtin_bit_cast(std::int32_t, __builtin_bit_cast(float, magnitude) + 0.5F) - 0x3f000000;
  std::int32_t out = select_bits(less_mask(magnitude, 0x38800000), subnormal, normal);
  out = out < 0x7c00 ? out : 0x7c00;
  out |= less_mask(0x7f800000, magnitude) & ((top & 0x3ff) | 0x200);
  return static_cast<std::uint16_t>(out | ((bits >> 16) & 0x8000));
}

/// The float of a float16 pattern: exact, but that a signalling NaN becomes a quiet one.
ALLFOLD_HD constexpr float widen_from_float16(std::uint16_t half) noexcept {
  const std::int32_t magnitude = half & 0x7fff;
  const std::int32_t normal = (magnitude << 13) + 0x38000000;
  // No product with a power of two: it would read a subnormal float, which some modes flush to zero.
  const std::int32_t subnormal =
      __builtin_bit_cast(std::int32_t, __builtin_bit_cast(float, magnitude | 0x3f000000) - 0.5F);
  std::int32_t out = select_bits(less_mask(magnitude, 0x400), subnormal, normal);
  out |= less_mask(0x7bff, magnitude) & 0x7f800000;
  out |= less_mask(0x7c00, magnitude) & 0x400000;
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(out) | static_cast<std::uint32_t>(half & 0x8000) << 16);
}

}  // namespace detail

/// IEEE binary16 in two bytes, on hosts and in kernels, without a CUDA header. A type to store and to send:
/// arithmetic is the caller's, in float. The default constructor leaves it uninitialized.
class float16 {
 public:
  float16() = default;
  /// The nearest float16, ties to even; a NaN stays one and becomes quiet.
  ALLFOLD_HD constexpr explicit float16(float value) noexcept : bits_(detail::narrow_to_float16(value)) {}
  ALLFOLD_HD static constexpr float16 from_bits(std::uint16_t bits) noexcept {
    float16 out(0.0F);
    out.bits_ = bits;
    return out;
  }

  ALLFOLD_HD constexpr std::uint16_t bits() const noexcept { return bits_; }
  ALLFOLD_HD constexpr explicit operator float() const noexcept { return detail::widen_from_float16(bits_); }

  /// As of floats: a NaN equals nothing, and -0 equals 0.
  ALLFOLD_HD friend constexpr bool operator==(float16 a, float16 b) noexcept { return float(a) == float(b); }
  ALLFOLD_HD friend constexpr bool operator<(float16 a, float16 b) noexcept { return float(a) < float(b); }
  ALLFOLD_HD friend constexpr bool operator>(float16 a, float16 b) noexcept { return float(a) > float(b); }
  ALLFOLD_HD friend constexpr bool operator<=(float16 a, float16 b) noexcept { return float(a) <= float(b); }
  ALLFOLD_HD friend constexpr bool operator>=(float16 a, float16 b) noexcept { return float(a) >= float(b); }

 private:
  std::uint16_t bits_;
};

}  // namespace allfold
