// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The machine's limit beside which a result stands: how fast one core copies and adds memory of the same size.

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <allfold/base/config.hpp>

#include "peer_protocol.hpp"

namespace bench {

/// Copies past the caches: faster than memcpy once neither side fits them. Both sides start at a page.
inline void streaming_copy(void* to, const void* from, std::size_t bytes) {
#if defined(__SSE2__)
  auto* out = static_cast<__m128i*>(to);
  const auto* in = static_cast<const __m128i*>(from);
  const std::size_t packs = bytes / sizeof(__m128i);
  for (std::size_t i = 0; i < packs; ++i) _mm_stream_si128(out + i, _mm_load_si128(in + i));
  _mm_sfence();
  std::memcpy(out + packs, in + packs, bytes % sizeof(__m128i));
#else
  std::memcpy(to, from, bytes);
#endif
}

/// b += a, in words.
inline void add(void* to, const void* from, std::size_t bytes) {
  auto* const out = static_cast<std::uint32_t*>(to);
  const auto* const in = static_cast<const std::uint32_t*>(from);
  const std::size_t words = bytes / sizeof(std::uint32_t);
  ALLFOLD_INDEPENDENT
  for (std::size_t i = 0; i < words; ++i) out[i] += in[i];
}

/// Microseconds of one `pass(to, from, bytes)`, the median of seven batches.
template <class Pass>
double pass_us(Pass pass, void* to, const void* from, std::size_t bytes) {
  const auto once = [&] {
    pass(to, from, bytes);
    asm volatile("" : : "r"(to) : "memory");  // or the compiler drops what nobody reads
  };
  const double first = time_us(once);
  const long iterations = std::clamp(static_cast<long>(500.0 / std::max(first, 0.01)), 1L, 10000L);
  constexpr int batches = 7;
  std::vector<double> means;
  means.reserve(batches);
  for (int batch = 0; batch < batches; ++batch) {
    means.push_back(time_us([&] {
                      for (long i = 0; i < iterations; ++i) once();
                    }) /
                    static_cast<double>(iterations));
  }
  return median(std::move(means));
}

inline double copy_us(void* to, const void* from, std::size_t bytes) {
  const double plain =
      pass_us([](void* out, const void* in, std::size_t n) { std::memcpy(out, in, n); }, to, from, bytes);
  return std::min(plain, pass_us(streaming_copy, to, from, bytes));
}

inline double add_us(void* to, const void* from, std::size_t bytes) { return pass_us(add, to, from, bytes); }

}  // namespace bench
