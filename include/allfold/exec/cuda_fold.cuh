// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <allfold/base/cuda_arch.cuh>
#include <allfold/exec/cuda_ptx.cuh>
#include <allfold/exec/cuda_words.cuh>

namespace allfold {

/// 16 bytes as elements.
template <class T>
struct alignas(16) Vector : PackedWords<T, 4> {
  static constexpr int elems = 16 / static_cast<int>(sizeof(T));
};

ALLFOLD_DEVICE bool is_vector_aligned(const void* pointer) {
  return (reinterpret_cast<std::uintptr_t>(pointer) & 15U) == 0;
}

/// Whether elements travel by 16 bytes at a time where their addresses allow it.
template <class Fold>
inline constexpr bool folds_vectors = sizeof(typename Fold::source) <= 16 && 16 % sizeof(typename Fold::source) == 0 &&
                                      sizeof(typename Fold::source) == sizeof(typename Fold::result);

/// The sources and targets of a fold: at most Most of each, in registers.
template <class Fold, int Most>
struct FoldPlan {
  const typename Fold::source* from[Most];
  typename Fold::result* to[Most];
  int sources;
  int targets;
};

/// Turns an array to the left by 0 to N - 1 places, by selects alone: an index that the compiler does not know would
/// put it into memory.
template <class T, int N>
ALLFOLD_DEVICE void rotate(T (&array)[N], int by) {
#pragma unroll
  for (int step = 1; step < N; step *= 2) {
    T turned[N];
#pragma unroll
    for (int i = 0; i < N; ++i) turned[i] = array[(i + step) % N];
#pragma unroll
    for (int i = 0; i < N; ++i) array[i] = (by & step) != 0 ? turned[i] : array[i];
  }
}

/// Vectors that a lane copies at a time.
inline constexpr int copies_in_flight = 4;

/// Lanes `lane` of `lanes` copy vectors [begin, end), whose addresses are aligned.
inline __device__ void copy_vectors(void* to, const void* from, std::size_t begin, std::size_t end, int lane,
                                    int lanes) {
  auto* const target = static_cast<unsigned char*>(to);
  const auto* const source = static_cast<const unsigned char*>(from);
  const auto stride = static_cast<std::size_t>(lanes);
  for (std::size_t at = begin + static_cast<std::size_t>(lane); at < end; at += stride * copies_in_flight) {
    std::uint32_t raw[copies_in_flight][4];
#pragma unroll
    for (int v = 0; v < copies_in_flight; ++v) {
      const std::size_t i = at + static_cast<std::size_t>(v) * stride;
      if (i < end) ptx::load_once(source + i * 16, raw[v]);
    }
#pragma unroll
    for (int v = 0; v < copies_in_flight; ++v) {
      const std::size_t i = at + static_cast<std::size_t>(v) * stride;
      if (i < end) ptx::store(target + i * 16, raw[v]);
    }
  }
}

/// Lanes `lane` of `lanes` fold elements [begin, n), one at a time.
template <class Fold, int Most>
__device__ void fold_elements(const Fold& fold, const FoldPlan<Fold, Most>& plan, std::size_t begin, std::size_t n,
                              int lane, int lanes) {
  for (std::size_t i = begin + static_cast<std::size_t>(lane); i < n; i += static_cast<std::size_t>(lanes)) {
    auto sum = fold.first(plan.from[0][i]);
#pragma unroll
    for (int s = 1; s < Most; ++s) {
      if (s < plan.sources) sum = fold.next(sum, plan.from[s][i]);
    }
    const auto result = fold.last(sum);
#pragma unroll
    for (int t = 0; t < Most; ++t) {
      if (t < plan.targets) plan.to[t][i] = result;
    }
  }
}

/// Folds the elements of units that lie in registers, of `sources` of them, into another.
template <int Most, class Fold, class Source, class Result>
ALLFOLD_DEVICE void fold_unit(const Fold& fold, const Source (&from)[Most], int sources, Result& result) {
  result.clear();
#pragma unroll
  for (int e = 0; e < Source::elems; ++e) {
    auto sum = fold.first(from[0].at(e));
#pragma unroll
    for (int s = 1; s < Most; ++s) {
      if (s < sources) sum = fold.next(sum, from[s].at(e));
    }
    result.set(e, fold.last(sum));
  }
}

/// Vectors of each source that a lane has under way.
template <int Most>
inline constexpr int folds_in_flight = Most > 4 ? 1 : 2;

/// Lanes `lane` of `lanes` fold vectors [begin, end), whose addresses are aligned.
template <class Fold, int Most>
__device__ void fold_vectors(const Fold& fold, const FoldPlan<Fold, Most>& plan, std::size_t begin, std::size_t end,
                             int lane, int lanes) {
  using Source = Vector<typename Fold::source>;
  using Result = Vector<typename Fold::result>;
  constexpr int in_flight = folds_in_flight<Most>;
  const auto stride = static_cast<std::size_t>(lanes);
  for (std::size_t at = begin + static_cast<std::size_t>(lane); at < end; at += stride * in_flight) {
    Source raw[in_flight][Most];
    Result result[in_flight];
#pragma unroll
    for (int v = 0; v < in_flight; ++v) {
      const std::size_t i = at + static_cast<std::size_t>(v) * stride;
#pragma unroll
      for (int s = 0; s < Most; ++s) {
        if (s < plan.sources && i < end) ptx::load_once(plan.from[s] + i * Source::elems, raw[v][s].word);
      }
    }
#pragma unroll
    for (int v = 0; v < in_flight; ++v) {
      if (at + static_cast<std::size_t>(v) * stride >= end) break;
      fold_unit(fold, raw[v], plan.sources, result[v]);
    }
#pragma unroll
    for (int t = 0; t < Most; ++t) {
#pragma unroll
      for (int v = 0; v < in_flight; ++v) {
        const std::size_t i = at + static_cast<std::size_t>(v) * stride;
        if (t < plan.targets && i < end) ptx::store(plan.to[t] + i * Result::elems, result[v].word);
      }
    }
  }
}

/// Vectors of a run, of each lane.
inline constexpr int run_vectors = 4;

/// Lanes `lane` of `lanes` fold vectors [0, vectors) into `own`, which is one of the targets, and from there send them
/// in runs to one other target after the other, which links carry faster. A lane sends what it has stored itself, for
/// both begin alike and have the same stride; so they need no barrier.
/// Source: docs/decisions/0007-device-constants.md.
template <class Fold, int Most>
__device__ void fold_vectors_in_runs(const Fold& fold, const FoldPlan<Fold, Most>& plan, typename Fold::result* own,
                                     std::size_t vectors, int lane, int lanes) {
  FoldPlan<Fold, Most> first = plan;
  first.to[0] = own;
  first.targets = 1;
  const auto run = static_cast<std::size_t>(lanes * run_vectors);
  for (std::size_t begin = 0; begin < vectors; begin += run) {
    const std::size_t end = begin + run < vectors ? begin + run : vectors;
    fold_vectors(fold, first, begin, end, lane, lanes);
#pragma unroll
    for (int t = 0; t < Most; ++t) {
      if (plan.to[t] != own) copy_vectors(plan.to[t], own, begin, end, lane, lanes);
    }
  }
}

/// The lanes of a block fold n elements together. `own`: null, or, with Most targets, that in this GPU's memory, from
/// which long results may go to the others.
template <class Fold, int Most>
__device__ void fold_block(const Fold& fold, const FoldPlan<Fold, Most>& plan, std::size_t n, int lane, int lanes,
                           typename Fold::result* own = nullptr) {
  std::size_t begin = 0;
  if constexpr (folds_vectors<Fold>) {
    bool aligned = true;
#pragma unroll
    for (int i = 0; i < Most; ++i) {
      aligned = aligned && (i >= plan.sources || is_vector_aligned(plan.from[i]));
      aligned = aligned && (i >= plan.targets || is_vector_aligned(plan.to[i]));
    }
    if (aligned) {
      constexpr auto elems = static_cast<std::size_t>(Vector<typename Fold::source>::elems);
      const std::size_t vectors = n / elems;
      if (own != nullptr && vectors > static_cast<std::size_t>(lanes * folds_in_flight<Most>)) {
        fold_vectors_in_runs(fold, plan, own, vectors, lane, lanes);
      } else {
        fold_vectors(fold, plan, 0, vectors, lane, lanes);
      }
      begin = vectors * elems;
    }
  }
  fold_elements(fold, plan, begin, n, lane, lanes);
}

/// The lanes of a block copy bytes together.
inline __device__ void copy_block(void* to, const void* from, std::size_t bytes, int lane, int lanes) {
  auto* target = static_cast<unsigned char*>(to);
  const auto* source = static_cast<const unsigned char*>(from);
  const auto stride = static_cast<std::size_t>(lanes);
  std::size_t begin = 0;
  if (is_vector_aligned(to) && is_vector_aligned(from)) {
    const std::size_t vectors = bytes / 16;
    copy_vectors(to, from, 0, vectors, lane, lanes);
    begin = vectors * 16;
  } else if (((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from)) & 3U) == 0) {
    const std::size_t words = bytes / 4;
    for (std::size_t i = static_cast<std::size_t>(lane); i < words; i += stride) {
      reinterpret_cast<std::uint32_t*>(target)[i] = reinterpret_cast<const std::uint32_t*>(source)[i];
    }
    begin = words * 4;
  } else if (((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from)) & 1U) == 0) {
    const std::size_t halves = bytes / 2;
    for (std::size_t i = static_cast<std::size_t>(lane); i < halves; i += stride) {
      reinterpret_cast<std::uint16_t*>(target)[i] = reinterpret_cast<const std::uint16_t*>(source)[i];
    }
    begin = halves * 2;
  }
  for (std::size_t i = begin + static_cast<std::size_t>(lane); i < bytes; i += stride) target[i] = source[i];
}

}  // namespace allfold
