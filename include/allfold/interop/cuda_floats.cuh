// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <allfold/op/element.hpp>

/// CUDA's own narrow floats as elements: combined in float, and rounded once (fp8 saturates to its largest finite
/// value).
namespace allfold {

template <>
struct element_traits<__half> {
  using accumulator = float;
  static constexpr std::string_view name = "float16";
  ALLFOLD_HD static float widen(const __half& x) noexcept { return __half2float(x); }
  ALLFOLD_HD static __half narrow(float x) noexcept { return __float2half_rn(x); }
};

template <>
struct element_traits<__nv_bfloat16> {
  using accumulator = float;
  static constexpr std::string_view name = "bfloat16";
  ALLFOLD_HD static float widen(const __nv_bfloat16& x) noexcept { return __bfloat162float(x); }
  ALLFOLD_HD static __nv_bfloat16 narrow(float x) noexcept { return __float2bfloat16_rn(x); }
};

template <>
struct element_traits<__nv_fp8_e4m3> {
  using accumulator = float;
  static constexpr std::string_view name = "float8_e4m3";
  ALLFOLD_HD static float widen(const __nv_fp8_e4m3& x) noexcept { return static_cast<float>(x); }
  ALLFOLD_HD static __nv_fp8_e4m3 narrow(float x) noexcept { return __nv_fp8_e4m3(x); }
};

template <>
struct element_traits<__nv_fp8_e5m2> {
  using accumulator = float;
  static constexpr std::string_view name = "float8_e5m2";
  ALLFOLD_HD static float widen(const __nv_fp8_e5m2& x) noexcept { return static_cast<float>(x); }
  ALLFOLD_HD static __nv_fp8_e5m2 narrow(float x) noexcept { return __nv_fp8_e5m2(x); }
};

}  // namespace allfold
