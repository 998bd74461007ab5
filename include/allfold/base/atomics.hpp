// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Atomic access to words that several ranks share. Builtins rather than std::atomic: the words live in memory
/// that was mapped, not constructed, and in structures that kernels read too.

namespace allfold {

template <class T>
inline T load_acquire(const T* word) noexcept {
  return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

template <class T>
inline T load_relaxed(const T* word) noexcept {
  return __atomic_load_n(word, __ATOMIC_RELAXED);
}

template <class T>
inline void store_release(T* word, T value) noexcept {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

template <class T>
inline void store_relaxed(T* word, T value) noexcept {
  __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

/// Adds and returns the value before.
template <class T>
inline T fetch_add(T* word, T value) noexcept {
  return __atomic_fetch_add(word, value, __ATOMIC_ACQ_REL);
}

/// Sets bits and returns the value before.
template <class T>
inline T fetch_or(T* word, T bits) noexcept {
  return __atomic_fetch_or(word, bits, __ATOMIC_ACQ_REL);
}

/// Replaces `expected` by `desired` and says whether it did.
template <class T>
inline bool compare_exchange(T* word, T expected, T desired) noexcept {
  return __atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/// Tells the core that this is a spin loop.
inline void cpu_pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace allfold
