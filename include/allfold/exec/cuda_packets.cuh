// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <allfold/base/cuda_arch.cuh>
#include <allfold/exec/cuda_ptx.cuh>
#include <allfold/exec/cuda_words.cuh>
#include <allfold/memory/device_channel.hpp>

namespace allfold {

namespace detail {

template <class T>
inline constexpr int packet_unit_elems =
    sizeof(T) == 8                                 ? 3
    : DevicePacket::payload_bytes % sizeof(T) == 0 ? static_cast<int>(DevicePacket::payload_bytes / sizeof(T))
                                                   : 1;
template <class T>
inline constexpr int packet_unit_packets =
    (packet_unit_elems<T> * static_cast<int>(sizeof(T)) + static_cast<int>(DevicePacket::payload_bytes) - 1) /
    static_cast<int>(DevicePacket::payload_bytes);

}  // namespace detail

/// The smallest number of elements that fills whole packets well, and what one lane handles at a time.
template <class T>
struct PacketUnit : PackedWords<T, detail::packet_unit_packets<T> * 3> {
  static constexpr int size = static_cast<int>(sizeof(T));
  static constexpr int elems = detail::packet_unit_elems<T>;
  static constexpr int packets = detail::packet_unit_packets<T>;
  static constexpr int words = packets * 3;

  using PackedWords<T, words>::word;
  using PackedWords<T, words>::at;
  using PackedWords<T, words>::set;

  /// Whether whole units are whole words.
  static constexpr bool has_whole_words = elems * size == words * 4;

  /// The first `n` elements from memory.
  ALLFOLD_DEVICE void load(const T* from, int n) {
    this->clear();
#pragma unroll
    for (int e = 0; e < elems; ++e) {
      if (e < n) set(e, from[e]);
    }
  }

  ALLFOLD_DEVICE void store(T* to, int n) const {
#pragma unroll
    for (int e = 0; e < elems; ++e) {
      if (e < n) to[e] = at(e);
    }
  }

  /// The same where the elements are whole words, and aligned so.
  ALLFOLD_DEVICE void load_words(const T* from, int n) {
#pragma unroll
    for (int w = 0; w < words; ++w) {
      word[w] = w * 4 < n * size ? reinterpret_cast<const std::uint32_t*>(from)[w] : 0;
    }
  }
  ALLFOLD_DEVICE void store_words(T* to, int n) const {
#pragma unroll
    for (int w = 0; w < words; ++w) {
      if (w * 4 < n * size) reinterpret_cast<std::uint32_t*>(to)[w] = word[w];
    }
  }

  ALLFOLD_DEVICE void send(DevicePacket* to, std::uint32_t flag) const {
#pragma unroll
    for (int p = 0; p < packets; ++p) {
      ptx::store_packet(to + p, DevicePacket{{word[p * 3], word[p * 3 + 1], word[p * 3 + 2]}, flag});
    }
  }

  /// One look. What it returns has the flag's bits set in which some packet differs from it.
  ALLFOLD_DEVICE std::uint32_t look(const DevicePacket* from, std::uint32_t flag) {
    std::uint32_t differs = 0;
#pragma unroll
    for (int p = 0; p < packets; ++p) {
      const DevicePacket packet = ptx::load_packet(from + p);
      word[p * 3] = packet.data[0];
      word[p * 3 + 1] = packet.data[1];
      word[p * 3 + 2] = packet.data[2];
      differs |= packet.flag ^ flag;
    }
    return differs;
  }
};

}  // namespace allfold
