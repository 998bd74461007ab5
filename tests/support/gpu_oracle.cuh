// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <support/oracle.hpp>

/// The oracle (support/oracle.hpp) for CUDA's narrow floats too, with plain host arithmetic on their bits.

namespace allfold_test {

/// The format of a narrow float of CUDA; `fraction` is 0 for other types.
template <class T>
struct NarrowFloat {
  static constexpr int fraction = 0;
};
template <>
struct NarrowFloat<__half> {
  static constexpr int fraction = 10, bias = 15;
  using Bits = std::uint16_t;
};
template <>
struct NarrowFloat<__nv_bfloat16> {
  static constexpr int fraction = 7, bias = 127;
  using Bits = std::uint16_t;
};
template <>
struct NarrowFloat<__nv_fp8_e4m3> {
  static constexpr int fraction = 3, bias = 7;
  using Bits = std::uint8_t;
};
template <>
struct NarrowFloat<__nv_fp8_e5m2> {
  static constexpr int fraction = 2, bias = 15;
  using Bits = std::uint8_t;
};

template <class T>
inline constexpr bool is_narrow = NarrowFloat<T>::fraction != 0;

/// The value of a finite narrow float.
template <class T>
float narrow_value(const T& x) {
  using Format = NarrowFloat<T>;
  typename Format::Bits bits;
  std::memcpy(&bits, &x, sizeof bits);
  constexpr int sign = 1 << (8 * sizeof bits - 1);
  const int rest = bits & (sign - 1);
  const int exponent = rest >> Format::fraction;
  const int fraction = rest % (1 << Format::fraction);
  const int whole = exponent == 0 ? fraction : fraction + (1 << Format::fraction);
  const float magnitude =
      static_cast<float>(std::ldexp(whole, std::max(exponent, 1) - Format::bias - Format::fraction));
  return (bits & sign) != 0 ? -magnitude : magnitude;
}

/// The nearest narrow float, ties to even. `value` is not beyond the largest: what comes of that is a matter of taste.
template <class T>
T narrow_rounded(float value) {
  using Format = NarrowFloat<T>;
  const double magnitude = std::fabs(static_cast<double>(value));
  int bits = 0;
  if (magnitude != 0) {
    const int exponent = std::max(std::ilogb(magnitude), 1 - Format::bias);
    const double steps = std::nearbyint(std::ldexp(magnitude, Format::fraction - exponent));
    bits = static_cast<int>(steps) + ((exponent + Format::bias - 1) << Format::fraction);
  }
  if (std::signbit(value)) bits |= 1 << (8 * sizeof(typename Format::Bits) - 1);
  const auto stored = static_cast<typename Format::Bits>(bits);
  T result;
  std::memcpy(static_cast<void*>(&result), &stored, sizeof stored);
  return result;
}

/// Element `i` of a rank's input.
template <class T>
T gpu_element(std::uint64_t seed, int rank, std::size_t i) {
  if constexpr (is_narrow<T>) {
    return narrow_rounded<T>(element<float>(seed, rank, i));
  } else {
    return element<T>(seed, rank, i);
  }
}

/// What every rank must get from one operand per rank; `mesh`: by hybrid_cube_mesh.
template <class T, class Op>
T gpu_expected(const Op& op, std::span<const T> operands, bool mesh) {
  if constexpr (is_narrow<T>) {
    static_assert(is_built_in<Op>, "the oracle folds CUDA's floats with built-in operators only");
    const auto fold = [&](std::size_t first, std::size_t end) {
      float result = plain_operand<Op, float>(op, narrow_value(operands[first]));
      for (std::size_t r = first + 1; r < end; ++r) {
        result = plain_join<Op, float>(result, plain_operand<Op, float>(op, narrow_value(operands[r])));
      }
      return result;
    };
    float result = mesh ? plain_join<Op, float>(fold(0, 4), fold(4, 8)) : fold(0, operands.size());
    if constexpr (std::is_same_v<Op, allfold::Avg>) result /= static_cast<float>(operands.size());
    return narrow_rounded<T>(result);
  } else {
    return mesh ? expected_of_mesh<T>(op, operands) : expected<T>(op, operands);
  }
}

}  // namespace allfold_test
