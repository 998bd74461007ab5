// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <allfold/base/cuda_arch.cuh>
#include <allfold/memory/device_channel.hpp>

/// All PTX of the library. Orders and scopes are those of the PTX memory model: between GPUs, the scope is `sys`.
namespace allfold::ptx {

ALLFOLD_DEVICE std::uint64_t load_acquire(const std::uint64_t* word) {
  std::uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  return value;
}

ALLFOLD_DEVICE std::uint32_t load_acquire(const std::uint32_t* word) {
  std::uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}

ALLFOLD_DEVICE std::uint64_t load_relaxed(const std::uint64_t* word) {
  std::uint64_t value;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  return value;
}

ALLFOLD_DEVICE void store_release(std::uint64_t* word, std::uint64_t value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

ALLFOLD_DEVICE void store_release(std::uint32_t* word, std::uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}

ALLFOLD_DEVICE void store_relaxed(std::uint64_t* word, std::uint64_t value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

ALLFOLD_DEVICE void store_relaxed(std::uint32_t* word, std::uint32_t value) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}

/// Replaces 0 by `desired`; returns what was there.
ALLFOLD_DEVICE std::uint64_t replace_zero(std::uint64_t* word, std::uint64_t desired) {
  std::uint64_t former;
  asm volatile("atom.acq_rel.sys.global.cas.b64 %0, [%1], 0, %2;" : "=l"(former) : "l"(word), "l"(desired) : "memory");
  return former;
}

/// A packet is one single-copy atomic access of 16 bytes: PTX ISA 8.4 and later, sm_70 and later.
ALLFOLD_DEVICE DevicePacket load_packet(const DevicePacket* packet) {
  std::uint64_t low;
  std::uint64_t high;
  asm volatile("{ .reg .b128 p; ld.relaxed.sys.global.b128 p, [%2]; mov.b128 {%0, %1}, p; }"
               : "=l"(low), "=l"(high)
               : "l"(packet)
               : "memory");
  DevicePacket value;
  value.data[0] = static_cast<std::uint32_t>(low);
  value.data[1] = static_cast<std::uint32_t>(low >> 32);
  value.data[2] = static_cast<std::uint32_t>(high);
  value.flag = static_cast<std::uint32_t>(high >> 32);
  return value;
}

ALLFOLD_DEVICE void store_packet(DevicePacket* packet, const DevicePacket& value) {
  const std::uint64_t low = value.data[0] | static_cast<std::uint64_t>(value.data[1]) << 32;
  const std::uint64_t high = value.data[2] | static_cast<std::uint64_t>(value.flag) << 32;
  asm volatile("{ .reg .b128 p; mov.b128 p, {%1, %2}; st.relaxed.sys.global.b128 [%0], p; }" ::"l"(packet), "l"(low),
               "l"(high)
               : "memory");
}

/// 16 bytes that are read once: they need not push anything else out of the first-level cache.
ALLFOLD_DEVICE void load_once(const void* from, std::uint32_t (&value)[4]) {
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value[0]), "=r"(value[1]), "=r"(value[2]), "=r"(value[3])
               : "l"(from)
               : "memory");
}

ALLFOLD_DEVICE void load(const void* from, std::uint32_t (&value)[4]) {
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value[0]), "=r"(value[1]), "=r"(value[2]), "=r"(value[3])
               : "l"(from)
               : "memory");
}

ALLFOLD_DEVICE void store(void* to, const std::uint32_t (&value)[4]) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(value[0]), "r"(value[1]), "r"(value[2]),
               "r"(value[3])
               : "memory");
}

/// The first `threads` of a block meet, a multiple of 32; whether all came with true. Barrier 0 is left to the block as
/// a whole.
ALLFOLD_DEVICE bool sync_lanes(int threads, bool ok) {
  std::uint32_t all;
  __syncwarp();  // a warp whose lanes have waited one by one meets the others as one
  asm volatile(
      "{ .reg .pred mine, all; setp.ne.u32 mine, %1, 0; barrier.cta.red.and.pred.aligned all, 1, %2, mine; "
      "selp.u32 %0, 1, 0, all; }"
      : "=r"(all)
      : "r"(static_cast<std::uint32_t>(ok)), "r"(threads)
      : "memory");
  return all != 0;
}

/// Nanoseconds of a clock that all SMs share; it ticks about once a microsecond.
ALLFOLD_DEVICE std::uint64_t now_ns() {
  std::uint64_t time;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time)::"memory");
  return time;
}

/// Programmatic dependent launch: returns when the grids before this one in its stream have ended, and their memory is
/// visible. Before that a kernel may do nothing but read its parameters.
ALLFOLD_DEVICE void wait_for_grids_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next grid of the stream be launched; it waits in turn for the end of this one.
ALLFOLD_DEVICE void let_next_grid_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace allfold::ptx
