// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace allfold {

/// Copies past the caches: for data that nobody reads before it is evicted anyway. It saves reading the target's
/// lines first. Ends with a fence, so that a signal stored next comes after the data.
inline void stream_copy(void* to, const void* from, std::size_t bytes) noexcept {
#if defined(__SSE2__)
  auto* target = static_cast<unsigned char*>(to);
  const auto* source = static_cast<const unsigned char*>(from);
  const std::size_t unaligned = (16 - (reinterpret_cast<std::uintptr_t>(target) & 15U)) & 15U;
  const std::size_t head = unaligned < bytes ? unaligned : bytes;
  std::memcpy(target, source, head);
  std::size_t i = head;
  for (; i + 64 <= bytes; i += 64) {
    const auto* s = reinterpret_cast<const __m128i*>(source + i);
    auto* t = reinterpret_cast<__m128i*>(target + i);
    const __m128i a = _mm_loadu_si128(s);
    const __m128i b = _mm_loadu_si128(s + 1);
    const __m128i c = _mm_loadu_si128(s + 2);
    const __m128i d = _mm_loadu_si128(s + 3);
    _mm_stream_si128(t, a);
    _mm_stream_si128(t + 1, b);
    _mm_stream_si128(t + 2, c);
    _mm_stream_si128(t + 3, d);
  }
  std::memcpy(target + i, source + i, bytes - i);
  _mm_sfence();
#else
  std::memcpy(to, from, bytes);
#endif
}

}  // namespace allfold
