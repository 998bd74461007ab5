// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <allfold/base/cuda_arch.cuh>

namespace allfold {

/// Elements of T packed into words, in registers: by shifts where T is smaller than a word, for bytes would be taken
/// apart and put together one by one.
template <class T, int Words>
struct PackedWords {
  static constexpr int size = static_cast<int>(sizeof(T));

  std::uint32_t word[Words];

  ALLFOLD_DEVICE T at(int e) const {
    if constexpr (size == 1) {
      return __builtin_bit_cast(T, static_cast<std::uint8_t>(word[e / 4] >> e % 4 * 8));
    } else if constexpr (size == 2) {
      return __builtin_bit_cast(T, static_cast<std::uint16_t>(word[e / 2] >> e % 2 * 16));
    } else if constexpr (size == 4) {
      return __builtin_bit_cast(T, word[e]);
    } else if constexpr (size == 8) {
      return __builtin_bit_cast(T, word[e * 2] | static_cast<std::uint64_t>(word[e * 2 + 1]) << 32);
    } else {
      Bytes bytes;
      __builtin_memcpy(&bytes, reinterpret_cast<const unsigned char*>(word) + e * size, sizeof bytes);
      return __builtin_bit_cast(T, bytes);
    }
  }

  /// Sets element e, whose bits are zero.
  ALLFOLD_DEVICE void set(int e, const T& x) {
    if constexpr (size == 1) {
      word[e / 4] |= static_cast<std::uint32_t>(bits_of<std::uint8_t>(x)) << e % 4 * 8;
    } else if constexpr (size == 2) {
      word[e / 2] |= static_cast<std::uint32_t>(bits_of<std::uint16_t>(x)) << e % 2 * 16;
    } else if constexpr (size == 4) {
      word[e] = bits_of<std::uint32_t>(x);
    } else if constexpr (size == 8) {
      const auto bits = bits_of<std::uint64_t>(x);
      word[e * 2] = static_cast<std::uint32_t>(bits);
      word[e * 2 + 1] = static_cast<std::uint32_t>(bits >> 32);
    } else {
      __builtin_memcpy(reinterpret_cast<unsigned char*>(word) + e * size, &x, sizeof(T));
    }
  }

  ALLFOLD_DEVICE void clear() {
#pragma unroll
    for (int w = 0; w < Words; ++w) word[w] = 0;
  }

 private:
  /// By memcpy: nvcc 13 dies on a __builtin_bit_cast of a parameter.
  template <class Bits>
  ALLFOLD_DEVICE static Bits bits_of(const T& x) {
    Bits bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
  }

  struct Bytes {
    unsigned char byte[sizeof(T)];
  };
};

}  // namespace allfold
