// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <allfold/base/cuda_arch.cuh>
#include <allfold/exec/cuda_ptx.cuh>
#include <allfold/memory/device_channel.hpp>

namespace allfold {

/// The smallest number of elements that fills whole packets well, and what one lane handles at a time.
template <class T>
struct PacketUnit {
  static constexpr int payload = static_cast<int>(DevicePacket::payload_bytes);
  static constexpr int size = static_cast<int>(sizeof(T));
  static constexpr int elems = size == 8 ? 3 : (payload % size == 0 ? payload / size : 1);
  static constexpr int packets = (elems * size + payload - 1) / payload;
  static constexpr int words = packets * 3;

  std::uint32_t word[words];

  /// Element e, out of the bytes.
  ALLFOLD_DEVICE T at(int e) const {
    struct Bytes {
      unsigned char byte[sizeof(T)];
    } bytes;
    __builtin_memcpy(&bytes, reinterpret_cast<const unsigned char*>(word) + e * size, sizeof(T));
    return __builtin_bit_cast(T, bytes);
  }

  ALLFOLD_DEVICE void set(int e, const T& x) {
    __builtin_memcpy(reinterpret_cast<unsigned char*>(word) + e * size, &x, sizeof(T));
  }

  /// The first `n` elements from memory.
  ALLFOLD_DEVICE void load(const T* from, int n) {
    if (n == elems && elems * size == words * 4 && (reinterpret_cast<std::uintptr_t>(from) & 3U) == 0) {
#pragma unroll
      for (int w = 0; w < words; ++w) word[w] = reinterpret_cast<const std::uint32_t*>(from)[w];
      return;
    }
#pragma unroll
    for (int w = 0; w < words; ++w) word[w] = 0;
#pragma unroll
    for (int e = 0; e < elems; ++e) {
      if (e < n) set(e, from[e]);
    }
  }

  ALLFOLD_DEVICE void store(T* to, int n) const {
    if (n == elems && elems * size == words * 4 && (reinterpret_cast<std::uintptr_t>(to) & 3U) == 0) {
#pragma unroll
      for (int w = 0; w < words; ++w) reinterpret_cast<std::uint32_t*>(to)[w] = word[w];
      return;
    }
#pragma unroll
    for (int e = 0; e < elems; ++e) {
      if (e < n) to[e] = at(e);
    }
  }

  ALLFOLD_DEVICE void send(DevicePacket* to, std::uint32_t flag) const {
#pragma unroll
    for (int p = 0; p < packets; ++p) {
      ptx::store_packet(to + p, DevicePacket{{word[p * 3], word[p * 3 + 1], word[p * 3 + 2]}, flag});
    }
  }

  /// One look: whether all its packets bear the flag; then they are in `word`.
  ALLFOLD_DEVICE bool receive(const DevicePacket* from, std::uint32_t flag) {
    bool here = true;
#pragma unroll
    for (int p = 0; p < packets; ++p) {
      const DevicePacket packet = ptx::load_packet(from + p);
      word[p * 3] = packet.data[0];
      word[p * 3 + 1] = packet.data[1];
      word[p * 3 + 2] = packet.data[2];
      here = here && packet.flag == flag;
    }
    return here;
  }
};

}  // namespace allfold
