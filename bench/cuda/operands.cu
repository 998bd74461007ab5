// SPDX-License-Identifier: Apache-2.0

#include "operands.cuh"

#include <algorithm>
#include <stdexcept>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "gpu.cuh"

namespace bench {
namespace {

__device__ float widen(float x) { return x; }
__device__ float widen(__half x) { return __half2float(x); }
__device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ T narrow(float x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

/// Half a unit in the last place of 1.
template <class T>
inline constexpr float half_ulp = std::is_same_v<T, __half>          ? 0x1p-11F
                                  : std::is_same_v<T, __nv_bfloat16> ? 0x1p-8F
                                                                     : 0x1p-24F;

/// The same numbers as on CPU ranks. Products and sums are rounded one by one: no fused multiply-add.
template <class T>
__device__ T operand(std::size_t i, int rank, bool whole_numbers) {
  const auto hash = static_cast<std::uint32_t>((i + 1) * 2654435761U + static_cast<std::uint32_t>(rank) * 2246822519U);
  if (whole_numbers) return narrow<T>(static_cast<float>(hash >> 28) - 8.0F);
  return narrow<T>(__fmul_rn(static_cast<float>(hash >> 20) - 2048.0F, 0.0371F));
}

__device__ std::size_t first_index() { return static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ std::size_t stride() { return static_cast<std::size_t>(gridDim.x) * blockDim.x; }

template <class T>
__global__ void fill(T* in, Operands operands, int rank) {
  for (std::size_t i = first_index(); i < operands.count; i += stride()) {
    in[i] = operand<T>(i, rank, operands.whole_numbers);
  }
}

template <class T>
__device__ bool right(T result, std::size_t i, const Operands& operands, Match match) {
  float sum = widen(operand<T>(i, 0, operands.whole_numbers));
  float magnitudes = fabsf(sum);
  for (int rank = 1; rank < operands.world_size; ++rank) {
    const float x = widen(operand<T>(i, rank, operands.whole_numbers));
    sum = __fadd_rn(sum, x);
    magnitudes += fabsf(x);
  }
  if (match == Match::near) {
    // Each side rounds once for each rank, at most.
    return fabsf(widen(result) - sum) <= 2.0F * static_cast<float>(operands.world_size) * half_ulp<T> * magnitudes;
  }
  const T expected = narrow<T>(sum);
  using Bits = std::conditional_t<sizeof(T) == 2, std::uint16_t, std::uint32_t>;
  return __builtin_bit_cast(Bits, result) == __builtin_bit_cast(Bits, expected);
}

template <class T>
__global__ void compare(const T* out, Operands operands, Match match, std::uint64_t* wrong) {
  std::uint64_t mine = 0;
  for (std::size_t i = first_index(); i < operands.count; i += stride()) {
    if (!right(out[i], i, operands, match)) ++mine;
  }
  if (mine != 0) atomicAdd(reinterpret_cast<unsigned long long*>(wrong), static_cast<unsigned long long>(mine));
}

constexpr unsigned threads = 256;

unsigned blocks_for(std::size_t count) {
  return static_cast<unsigned>(std::clamp<std::size_t>(count / threads, 1, 1024));
}

/// Calls `body` with a null pointer to the element type.
template <class Body>
void with_type(ElementType type, Body&& body) {
  switch (type) {
    case ElementType::float32: return body(static_cast<float*>(nullptr));
    case ElementType::float16: return body(static_cast<__half*>(nullptr));
    case ElementType::bfloat16: return body(static_cast<__nv_bfloat16*>(nullptr));
    default: throw std::logic_error("allfold_perf: the type is not built for GPUs");
  }
}

}  // namespace

void fill_operands(const Operands& operands, int rank, void* in, cudaStream_t stream) {
  with_type(operands.type, [&]<class T>(T*) {
    fill<<<blocks_for(operands.count), threads, 0, stream>>>(static_cast<T*>(in), operands, rank);
  });
  check_cuda(cudaGetLastError(), "writing operands");
}

void count_wrong(const Operands& operands, Match match, const void* out, std::uint64_t* wrong, cudaStream_t stream) {
  check_cuda(cudaMemsetAsync(wrong, 0, sizeof *wrong, stream), "cudaMemset");
  with_type(operands.type, [&]<class T>(T*) {
    compare<<<blocks_for(operands.count), threads, 0, stream>>>(static_cast<const T*>(out), operands, match, wrong);
  });
  check_cuda(cudaGetLastError(), "comparing a result");
}

}  // namespace bench
