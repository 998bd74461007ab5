// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <doctest/doctest.h>

#include <allfold/op/bfloat16.hpp>

namespace {

using allfold::bfloat16;

static_assert(sizeof(bfloat16) == 2 && alignof(bfloat16) == 2);
static_assert(std::is_trivially_copyable_v<bfloat16> && std::is_trivially_default_constructible_v<bfloat16>);
static_assert(bfloat16(1.0F).bits() == 0x3f80 && bfloat16(-2.5F).bits() == 0xc020);
static_assert(float(bfloat16::from_bits(0x0001)) == 0x1p-133F);
static_assert(!std::is_convertible_v<float, bfloat16> && !std::is_convertible_v<bfloat16, float>);

constexpr bool is_nan(std::uint16_t bits) { return (bits & 0x7fff) > 0x7f80; }

/// What a pattern means; the infinity's as if the exponent went on, which is what rounding needs.
double value_of(std::uint16_t bits) {
  const int exponent = bits >> 7 & 255;
  const int fraction = bits & 0x7f;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -133) : std::ldexp(fraction + 128, exponent - 134);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

/// The nearest pattern, ties to even: of the two neighbours, the closer one.
std::uint16_t nearest(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const auto low = static_cast<std::uint16_t>(bits >> 16);
  if (std::isnan(value)) return low | 0x40;
  if (std::isinf(value)) return low;
  const auto high = static_cast<std::uint16_t>(low + 1);
  const double below = std::fabs(static_cast<double>(value) - value_of(low));
  const double above = std::fabs(static_cast<double>(value) - value_of(high));
  if (below == above) return (low & 1) == 0 ? low : high;
  return below < above ? low : high;
}

TEST_CASE("bfloat16 widens all 65536 patterns exactly") {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float wide = float(bfloat16::from_bits(bits));
    REQUIRE_MESSAGE(std::bit_cast<std::uint32_t>(wide) == i << 16, "pattern ", i);
    if (std::isfinite(wide)) REQUIRE_MESSAGE(static_cast<double>(wide) == value_of(bits), "pattern ", i);
    REQUIRE_MESSAGE(std::isnan(wide) == is_nan(bits), "pattern ", i);
  }
}

TEST_CASE("bfloat16 narrows what it widened to the same pattern") {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const auto expected = is_nan(bits) ? static_cast<std::uint16_t>(bits | 0x40) : bits;
    REQUIRE_MESSAGE(bfloat16(float(bfloat16::from_bits(bits))).bits() == expected, "pattern ", i);
  }
}

TEST_CASE("bfloat16 rounds to nearest, ties to even, around every midpoint") {
  for (std::uint32_t i = 0; i < 0x7f80; ++i) {
    const std::uint32_t midpoint = i << 16 | 0x8000;
    REQUIRE_MESSAGE(bfloat16(std::bit_cast<float>(midpoint)).bits() == i + (i & 1), "above pattern ", i);
    REQUIRE_MESSAGE(bfloat16(std::bit_cast<float>(midpoint - 1)).bits() == i, "above pattern ", i);
    REQUIRE_MESSAGE(bfloat16(std::bit_cast<float>(midpoint + 1)).bits() == i + 1, "above pattern ", i);
  }
  CHECK(bfloat16(std::numeric_limits<float>::max()).bits() == 0x7f80);
  CHECK(bfloat16(-std::numeric_limits<float>::infinity()).bits() == 0xff80);
}

TEST_CASE("bfloat16 keeps a NaN whose payload lies in the bits that go") {
  CHECK(bfloat16(std::bit_cast<float>(0x7f800001U)).bits() == 0x7fc0);
  CHECK(bfloat16(std::bit_cast<float>(0xffffffffU)).bits() == 0xffff);
}

TEST_CASE("bfloat16 narrows as the reference does, all over the floats") {
  for (std::uint64_t i = 0; i < 0x100000000ULL; i += 4093) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(i));
    REQUIRE_MESSAGE(bfloat16(value).bits() == nearest(value), "float pattern ", i);
  }
}

TEST_CASE("bfloat16 compares as float does") {
  const bfloat16 one(1.0F);
  const bfloat16 two(2.0F);
  const bfloat16 nan(std::numeric_limits<float>::quiet_NaN());
  CHECK(one < two);
  CHECK(two > one);
  CHECK(one <= one);
  CHECK(two >= one);
  CHECK(one == one);
  CHECK(one != two);
  CHECK(bfloat16(0.0F) == bfloat16(-0.0F));
  CHECK_FALSE(nan == nan);
  CHECK_FALSE(nan < one);
  CHECK_FALSE(nan >= one);
}

}  // namespace
