// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <doctest/doctest.h>

#include <allfold/op/float16.hpp>

namespace {

using allfold::float16;

static_assert(sizeof(float16) == 2 && alignof(float16) == 2);
static_assert(std::is_trivially_copyable_v<float16> && std::is_trivially_default_constructible_v<float16>);
static_assert(float16(1.0F).bits() == 0x3c00 && float16(-2.5F).bits() == 0xc100);
static_assert(float(float16::from_bits(0x0001)) == 0x1p-24F && float(float16::from_bits(0x7bff)) == 65504.0F);
static_assert(!std::is_convertible_v<float, float16> && !std::is_convertible_v<float16, float>);

constexpr bool is_nan(std::uint16_t bits) { return (bits & 0x7fff) > 0x7c00; }

/// What a pattern means, from the standard's definition.
double value_of(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 0x3ff;
  double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25);
  if (exponent == 31) {
    magnitude = fraction == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

/// The nearest pattern, ties to even, by rounding in units of the last place.
std::uint16_t nearest(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | 0x7e00 | (bits >> 13 & 0x3ff));
  const double magnitude = std::fabs(static_cast<double>(value));
  if (magnitude >= 65520.0) return sign | 0x7c00;
  int exponent = magnitude > 0 ? std::ilogb(magnitude) : -14;
  if (exponent < -14) exponent = -14;
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  // A significand that rounded up to 2048 carries into the exponent by itself.
  return static_cast<std::uint16_t>(sign + ((exponent + 14) << 10) + units);
}

TEST_CASE("float16 widens all 65536 patterns exactly") {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float wide = float(float16::from_bits(bits));
    if (is_nan(bits)) {
      const std::uint32_t expected = (i & 0x8000) << 16 | 0x7fc00000 | (i & 0x3ff) << 13;
      REQUIRE_MESSAGE(std::bit_cast<std::uint32_t>(wide) == expected, "pattern ", i);
    } else {
      REQUIRE_MESSAGE(static_cast<double>(wide) == value_of(bits), "pattern ", i);
      REQUIRE_MESSAGE(std::signbit(wide) == ((bits & 0x8000) != 0), "pattern ", i);
    }
  }
}

TEST_CASE("float16 narrows what it widened to the same pattern") {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const auto expected = is_nan(bits) ? static_cast<std::uint16_t>(bits | 0x200) : bits;
    REQUIRE_MESSAGE(float16(float(float16::from_bits(bits))).bits() == expected, "pattern ", i);
  }
}

TEST_CASE("float16 rounds to nearest, ties to even, around every midpoint") {
  for (std::uint32_t i = 0; i < 0x7bff; ++i) {
    const auto low = static_cast<std::uint16_t>(i);
    const auto high = static_cast<std::uint16_t>(i + 1);
    const auto even = (low & 1) == 0 ? low : high;
    const auto midpoint = static_cast<float>((value_of(low) + value_of(high)) / 2);
    REQUIRE_MESSAGE(float16(midpoint).bits() == even, "above pattern ", i);
    REQUIRE_MESSAGE(float16(-midpoint).bits() == (even | 0x8000), "above pattern ", i);
    REQUIRE_MESSAGE(float16(std::nextafter(midpoint, 0.0F)).bits() == low, "above pattern ", i);
    REQUIRE_MESSAGE(float16(std::nextafter(midpoint, 1e9F)).bits() == high, "above pattern ", i);
  }
  CHECK(float16(65519.996F).bits() == 0x7bff);
  CHECK(float16(65520.0F).bits() == 0x7c00);
  CHECK(float16(std::numeric_limits<float>::max()).bits() == 0x7c00);
  CHECK(float16(-std::numeric_limits<float>::infinity()).bits() == 0xfc00);
  CHECK(float16(std::numeric_limits<float>::denorm_min()).bits() == 0);
}

TEST_CASE("float16 narrows as the reference does, all over the floats") {
  for (std::uint64_t i = 0; i < 0x100000000ULL; i += 4093) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(i));
    const std::uint16_t got = float16(value).bits();
    REQUIRE_MESSAGE(got == nearest(value), "float pattern ", i);
#if defined(__FLT16_MAX__)
    REQUIRE_MESSAGE(got == std::bit_cast<std::uint16_t>(static_cast<_Float16>(value)), "float pattern ", i);
#endif
  }
}

TEST_CASE("float16 loops that vectorize give the same bits as one conversion") {
  // A prime number of elements, so that there is a tail.
  constexpr int count = 10007;
  static float in[count];
  static float16 narrow[count];
  static float wide[count];
  for (int i = 0; i < count; ++i) in[i] = std::bit_cast<float>(static_cast<std::uint32_t>(i) * 429496U);
  for (int i = 0; i < count; ++i) narrow[i] = float16(in[i]);
  for (int i = 0; i < count; ++i) wide[i] = float(narrow[i]);
  for (int i = 0; i < count; ++i) {
    REQUIRE(narrow[i].bits() == nearest(in[i]));
    if (!std::isnan(in[i])) REQUIRE(static_cast<double>(wide[i]) == value_of(narrow[i].bits()));
  }
}

#if defined(__SSE__)
TEST_CASE("float16 keeps its subnormals where the processor flushes those of float") {
  const unsigned before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(before | 0x8040U);
  bool kept = true;
  for (std::uint32_t i = 0; i < 0x400; ++i) {
    volatile std::uint16_t bits = static_cast<std::uint16_t>(i);
    volatile float wide = float(float16::from_bits(bits));
    kept = kept && float16(wide).bits() == i;
  }
  __builtin_ia32_ldmxcsr(before);
  CHECK(kept);
}
#endif

TEST_CASE("float16 compares as float does") {
  const float16 one(1.0F);
  const float16 two(2.0F);
  const float16 nan(std::numeric_limits<float>::quiet_NaN());
  CHECK(one < two);
  CHECK(two > one);
  CHECK(one <= one);
  CHECK(two >= one);
  CHECK(one == one);
  CHECK(one != two);
  CHECK(float16(0.0F) == float16(-0.0F));
  CHECK_FALSE(nan == nan);
  CHECK_FALSE(nan < one);
  CHECK_FALSE(nan >= one);
}

}  // namespace
