// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>

#include <allfold/base/config.hpp>
#include <allfold/exec/host_copy.hpp>

namespace allfold {

/// Room for N objects of a trivially copyable type, which need not have a default constructor.
template <class T, std::size_t N>
class RawArray {
 public:
  T* data() noexcept { return reinterpret_cast<T*>(raw_); }

 private:
  alignas(T) unsigned char raw_[N * sizeof(T)];
};

/// So many elements are folded at a time: what is in flight stays in the first-level cache.
template <class Fold>
inline constexpr std::size_t fold_step = [] {
  constexpr std::size_t widest = sizeof(typename Fold::accumulator) > sizeof(typename Fold::result)
                                     ? sizeof(typename Fold::accumulator)
                                     : sizeof(typename Fold::result);
  return widest >= 4096 ? std::size_t{1} : 4096 / widest;
}();

/// Folds `n <= fold_step` elements of `operands` sources into `out`, which may be one of them.
template <class Fold>
void fold_step_into(const Fold& fold, const typename Fold::source* const* sources, int operands,
                    typename Fold::result* out, std::size_t n) noexcept {
  const auto* a = sources[0];
  if (operands == 2) {
    const auto* b = sources[1];
    ALLFOLD_INDEPENDENT
    for (std::size_t i = 0; i < n; ++i) out[i] = fold.last(fold.next(fold.first(a[i]), b[i]));
    return;
  }
  if (operands == 4) {  // one pass instead of five
    const auto* b = sources[1];
    const auto* c = sources[2];
    const auto* d = sources[3];
    ALLFOLD_INDEPENDENT
    for (std::size_t i = 0; i < n; ++i) {
      out[i] = fold.last(fold.next(fold.next(fold.next(fold.first(a[i]), b[i]), c[i]), d[i]));
    }
    return;
  }
  RawArray<typename Fold::accumulator, fold_step<Fold>> sums;
  auto* sum = sums.data();
  for (std::size_t i = 0; i < n; ++i) sum[i] = fold.first(a[i]);
  for (int o = 1; o < operands; ++o) {
    const auto* x = sources[o];
    for (std::size_t i = 0; i < n; ++i) sum[i] = fold.next(sum[i], x[i]);
  }
  for (std::size_t i = 0; i < n; ++i) out[i] = fold.last(sum[i]);
}

/// Where the results of a fold go.
template <class Result>
struct FoldTargets {
  Result* at[max_window_ranks];
  bool stream[max_window_ranks];  ///< past the caches
  int count = 0;

  void add(Result* to, bool past_caches) noexcept {
    at[count] = to;
    stream[count++] = past_caches;
  }
};

/// Folds n elements of every source and gives the result to every target.
template <class Fold>
void fold_into(const Fold& fold, const typename Fold::source* const* sources, int operands,
               const FoldTargets<typename Fold::result>& targets, std::size_t n) noexcept {
  using Result = typename Fold::result;
  constexpr std::size_t step = fold_step<Fold>;
  RawArray<Result, step> results;
  const bool direct = !targets.stream[0];  // the first target is folded into, and the others are copied from it
  const typename Fold::source* at[max_window_ranks] = {};
  for (std::size_t begin = 0; begin < n; begin += step) {
    const std::size_t count = n - begin < step ? n - begin : step;
    for (int o = 0; o < operands; ++o) at[o] = sources[o] + begin;
    Result* const folded = direct ? targets.at[0] + begin : results.data();
    fold_step_into(fold, at, operands, folded, count);
    for (int t = direct ? 1 : 0; t < targets.count; ++t) {
      if (targets.stream[t]) {
        stream_copy(targets.at[t] + begin, folded, count * sizeof(Result));
      } else {
        std::memcpy(static_cast<void*>(targets.at[t] + begin), folded, count * sizeof(Result));
      }
    }
  }
}

}  // namespace allfold
