// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>

#include <allfold/algo/fold.hpp>
#include <allfold/algo/message/reduction.hpp>
#include <allfold/exec/host_fold.hpp>
#include <allfold/op/reduction.hpp>

namespace allfold {

namespace detail {

/// Folds n elements of any number of operands into `to`, which may be one of them.
template <class Fold>
void fold_operands(const Fold& fold, const void* const* operands, int count, void* to, std::size_t n) noexcept {
  using Source = typename Fold::source;
  constexpr int at_once = max_window_ranks;
  constexpr std::size_t step = fold_step<Fold>;
  const auto source = [operands](int o) { return static_cast<const Source*>(operands[o]); };
  auto* const out = static_cast<typename Fold::result*>(to);
  RawArray<typename Fold::accumulator, step> sums;
  auto* const sum = sums.data();
  for (std::size_t begin = 0; begin < n; begin += step) {
    const std::size_t elems = n - begin < step ? n - begin : step;
    if (count <= at_once) {
      const Source* at[at_once] = {};
      for (int o = 0; o < count; ++o) at[o] = source(o) + begin;
      fold_step_into(fold, at, count, out + begin, elems);
      continue;
    }
    for (std::size_t i = 0; i < elems; ++i) sum[i] = fold.first(source(0)[begin + i]);
    for (int o = 1; o < count; ++o) {
      const Source* const x = source(o) + begin;
      for (std::size_t i = 0; i < elems; ++i) sum[i] = fold.next(sum[i], x[i]);
    }
    for (std::size_t i = 0; i < elems; ++i) out[begin + i] = fold.last(sum[i]);
  }
}

/// A value is its own partial, and a partial its own value.
template <class Reduction>
inline constexpr bool is_plain_reduction =
    std::is_same_v<typename Reduction::value_type, typename Reduction::accumulator> &&
    !requires(const typename Reduction::operator_type& op, typename Reduction::accumulator a) { op.lift(a); } &&
    !requires(const typename Reduction::operator_type& op, typename Reduction::accumulator a) { op.finish(a, 1); };

template <class Op>
inline constexpr bool is_built_in_operator =
    is_any_of<Op, Sum, Product, Min, Max, Avg, Band, Bor, Bxor> || is_any_of<Op, Land, Lor, Lxor> || is_premul_sum<Op>;

/// The built-in operators commute; a functor does where it says so: `static constexpr bool commutes = true`.
template <class Op>
constexpr bool operator_commutes() noexcept {
  if constexpr (requires {
                  { Op::commutes } -> std::convertible_to<bool>;
                }) {
    return Op::commutes;
  } else {
    return is_built_in_operator<Op>;
  }
}

template <class Reduction>
void fold_on_host(const void* context, FoldKind kind, const void* const* operands, int count, void* to, std::size_t n,
                  int world_size) {
  const auto& reduction = *static_cast<const Reduction*>(context);
  if constexpr (is_plain_reduction<Reduction>) {
    if (count == 1) {
      if (n != 0 && to != operands[0]) std::memmove(to, operands[0], n * sizeof(typename Reduction::value_type));
      return;
    }
  }
  switch (kind) {
    case FoldKind::values_to_value:
      return fold_operands(FullFold<Reduction>{reduction, world_size}, operands, count, to, n);
    case FoldKind::values_to_partial: return fold_operands(PartialFold<Reduction>{reduction}, operands, count, to, n);
    case FoldKind::partials_to_partial: return fold_operands(JoinFold<Reduction>{reduction}, operands, count, to, n);
    case FoldKind::partials_to_value:
      return fold_operands(FinalFold<Reduction>{reduction, world_size}, operands, count, to, n);
  }
}

}  // namespace detail

/// What message algorithms know of a reduction whose operands lie in host memory. It refers to `reduction`.
template <class Reduction>
MessageReduction host_reduction(const Reduction& reduction) noexcept {
  using T = typename Reduction::value_type;
  return {.reduction = &reduction,
          .fold = &detail::fold_on_host<Reduction>,
          .value_bytes = sizeof(T),
          .partial_bytes = sizeof(typename Reduction::accumulator),
          .plain = detail::is_plain_reduction<Reduction>,
          .commutes = detail::operator_commutes<typename Reduction::operator_type>()};
}

/// The same, with what the endpoint needs beside it for other memory: its `erased(reduction)`, if it has one.
template <class E, class Reduction>
MessageReduction reduction_for_messages(const Reduction& reduction) noexcept {
  if constexpr (requires { E::erased(reduction); }) {
    return E::erased(reduction);
  } else {
    return host_reduction(reduction);
  }
}

}  // namespace allfold
