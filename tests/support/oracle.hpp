// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include <allfold/base/hash.hpp>
#include <allfold/op/reduction.hpp>

/// What an all-reduce must give, bit for bit, computed with plain loops over the ranks in ascending order. For built-in
/// types and operators nothing of the library takes part, the conversions of 16-bit floats included.

namespace allfold_test {

template <class T>
inline constexpr bool is_half = std::is_same_v<T, allfold::float16> || std::is_same_v<T, allfold::bfloat16>;

template <class T>
inline constexpr bool is_plain = std::is_arithmetic_v<T> || is_half<T>;

/// The bits of a 16-bit float's fraction, and its exponent's bias.
template <class T>
inline constexpr int fraction_bits = std::is_same_v<T, allfold::float16> ? 10 : 7;
template <class T>
inline constexpr int exponent_bias = std::is_same_v<T, allfold::float16> ? 15 : 127;

/// The value of a finite 16-bit float.
template <class T>
float plain_value(T x) {
  const int fraction = x.bits() % (1 << fraction_bits<T>);
  const int exponent = (x.bits() & 0x7fff) >> fraction_bits<T>;
  const int whole = exponent == 0 ? fraction : fraction + (1 << fraction_bits<T>);
  const int power = std::max(exponent, 1) - exponent_bias<T> - fraction_bits<T>;
  const float magnitude = static_cast<float>(std::ldexp(whole, power));
  return (x.bits() & 0x8000) != 0 ? -magnitude : magnitude;
}

/// The nearest 16-bit float, ties to even. `value` is no NaN.
template <class T>
T plain_rounded(float value) {
  const int infinity = (2 * exponent_bias<T> + 1) << fraction_bits<T>;
  const int sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(value));
  int bits = infinity;
  if (magnitude == 0) {
    bits = 0;
  } else if (!std::isinf(magnitude)) {
    // The bits of a positive float count, in steps of its last place, from zero to infinity.
    const int exponent = std::max(std::ilogb(magnitude), 1 - exponent_bias<T>);
    const double steps = std::nearbyint(std::ldexp(magnitude, fraction_bits<T> - exponent));
    bits = static_cast<int>(steps) + ((exponent + exponent_bias<T> - 1) << fraction_bits<T>);
  }
  return T::from_bits(static_cast<std::uint16_t>(sign | std::min(bits, infinity)));
}

/// Element `i` of a rank's input: pseudo-random bits for integers, numbers of either sign and many magnitudes for
/// floats, so that another order of their sum has other bits. Other types are made of a 32-bit word.
template <class T>
T element(std::uint64_t seed, int rank, std::size_t i) {
  const std::uint64_t h = allfold::hash_mix(allfold::hash_mix(seed + static_cast<unsigned>(rank)) + i);
  if constexpr (std::is_same_v<T, bool>) {
    return (h & 3) != 0;
  } else if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(h);
  } else if constexpr (is_plain<T>) {
    const double fraction = 1 + static_cast<double>(h >> 12) / 0x1p52;
    constexpr double scales[] = {1.0 / 16, 1.0 / 8, 1.0 / 4, 1.0 / 2, 1, 2, 4, 8};
    const double number = ((h & 1) != 0 ? -fraction : fraction) * scales[h >> 1 & 7];
    if constexpr (is_half<T>) {
      return plain_rounded<T>(static_cast<float>(number));
    } else {
      return static_cast<T>(number);
    }
  } else {
    return T(static_cast<std::uint32_t>(h));
  }
}

template <class Op>
inline constexpr bool is_premul = false;
template <class S>
inline constexpr bool is_premul<allfold::PremulSum<S>> = true;

template <class Op, class... Others>
inline constexpr bool is_one_of = (std::is_same_v<Op, Others> || ...);

template <class Op>
inline constexpr bool is_logical = is_one_of<Op, allfold::Land, allfold::Lor, allfold::Lxor>;

template <class Op>
inline constexpr bool is_built_in = is_logical<Op> || is_premul<Op> ||
                                    is_one_of<Op, allfold::Sum, allfold::Product, allfold::Min, allfold::Max,
                                              allfold::Avg, allfold::Band, allfold::Bor, allfold::Bxor>;

/// a op b for built-in operators: integers as 64-bit words that wrap, floats in their own arithmetic.
template <class Op, class A>
A plain_join(A a, A b) {
  if constexpr (is_one_of<Op, allfold::Sum, allfold::Avg> || is_premul<Op>) {
    if constexpr (std::is_same_v<A, bool>) return a || b;
    if constexpr (std::is_floating_point_v<A>) return a + b;
    return static_cast<A>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
  } else if constexpr (std::is_same_v<Op, allfold::Product>) {
    if constexpr (std::is_same_v<A, bool>) return a && b;
    if constexpr (std::is_floating_point_v<A>) return a * b;
    return static_cast<A>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
  } else if constexpr (std::is_same_v<Op, allfold::Min>) {
    return b < a ? b : a;
  } else if constexpr (std::is_same_v<Op, allfold::Max>) {
    return a < b ? b : a;
  } else if constexpr (std::is_same_v<Op, allfold::Land>) {
    return static_cast<A>(a != 0 && b != 0);
  } else if constexpr (std::is_same_v<Op, allfold::Lor>) {
    return static_cast<A>(a != 0 || b != 0);
  } else if constexpr (std::is_same_v<Op, allfold::Lxor>) {
    return static_cast<A>((a != 0) != (b != 0));
  } else if constexpr (std::is_same_v<Op, allfold::Band>) {
    return static_cast<A>(a & b);
  } else if constexpr (std::is_same_v<Op, allfold::Bor>) {
    return static_cast<A>(a | b);
  } else {
    static_assert(std::is_same_v<Op, allfold::Bxor>);
    return static_cast<A>(a ^ b);
  }
}

/// One operand, as what a built-in operator combines.
template <class Op, class A>
A plain_operand(const Op& op, A x) {
  if constexpr (is_logical<Op>) {
    return static_cast<A>(x != 0);
  } else if constexpr (is_premul<Op>) {
    if constexpr (std::is_floating_point_v<A>) {
      const volatile A product = x * static_cast<A>(op.factor);  // rounded, not fused with the sum
      return product;
    } else {
      return static_cast<A>(static_cast<std::uint64_t>(x) * static_cast<std::uint64_t>(op.factor));
    }
  } else {
    return x;
  }
}

/// What every rank must get from one operand per rank.
template <class T, class Op>
T expected(const Op& op, std::span<const T> operands) {
  const int world_size = static_cast<int>(operands.size());
  if constexpr (is_plain<T> && is_built_in<Op>) {
    using A = std::conditional_t<is_half<T>, float, T>;
    const auto operand = [&](std::size_t rank) {
      if constexpr (is_half<T>) {
        return plain_operand<Op, A>(op, plain_value(operands[rank]));
      } else {
        return plain_operand<Op, A>(op, operands[rank]);
      }
    };
    A result = operand(0);
    for (std::size_t rank = 1; rank < operands.size(); ++rank) result = plain_join<Op, A>(result, operand(rank));
    if constexpr (std::is_same_v<Op, allfold::Avg>) result = static_cast<A>(result / static_cast<A>(world_size));
    if constexpr (is_half<T>) {
      return plain_rounded<T>(result);
    } else {
      return result;
    }
  } else {
    const allfold::Reduction<Op, T> reduction{op};
    auto result = reduction.lift(operands[0]);
    for (std::size_t rank = 1; rank < operands.size(); ++rank) result = reduction.merge(result, operands[rank]);
    return reduction.finish(result, world_size);
  }
}

/// What every rank must get from hybrid_cube_mesh on eight ranks whose quads are 0 to 3 and 4 to 7: each quad's fold in
/// ascending order, then the two joined.
template <class T, class Op>
T expected_of_mesh(const Op& op, std::span<const T> operands) {
  const allfold::Reduction<Op, T> reduction{op};
  const auto quad = [&](std::size_t first) {
    auto result = reduction.lift(operands[first]);
    for (std::size_t i = 1; i < 4; ++i) result = reduction.merge(result, operands[first + i]);
    return result;
  };
  return reduction.finish(reduction.join(quad(0), quad(4)), 8);
}

}  // namespace allfold_test
