// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <type_traits>

#include <allfold/base/config.hpp>
#include <allfold/op/element.hpp>
#include <allfold/op/operators.hpp>

namespace allfold {

namespace detail {

template <class Op, class A>
concept joins_exactly = requires(const Op& op, A a, A b) {
  { op(a, b) } -> std::same_as<A>;
};

template <class Op, class A>
concept joins = requires(const Op& op, A a, A b) {
  { op(a, b) } -> std::convertible_to<A>;
};

template <class T>
inline constexpr bool has_wider_accumulator = !std::is_same_v<typename element_traits<T>::accumulator, T>;

/// Whether T's operands are combined in the accumulator of its traits: always, unless that is a wider type that
/// the functor does not take. Asked of the wider type first, so that the body of a generic lambda is not
/// instantiated for a T that has no arithmetic.
template <class Op, class T>
constexpr bool folds_in_accumulator() noexcept {
  if constexpr (has_wider_accumulator<T>) {
    return joins_exactly<Op, typename element_traits<T>::accumulator>;
  } else {
    return true;
  }
}

template <class Op>
inline constexpr bool is_premul_sum = false;
template <class S>
inline constexpr bool is_premul_sum<PremulSum<S>> = true;

template <class Op, class... Others>
inline constexpr bool is_any_of = (std::is_same_v<Op, Others> || ...);

template <class A>
concept adds = requires(const A& a) {
  { a + a } -> std::convertible_to<A>;
};
template <class A>
concept multiplies = requires(const A& a) {
  { a* a } -> std::convertible_to<A>;
};
template <class A>
concept divides_by_int = requires(const A& a, int n) {
  { a / n } -> std::convertible_to<A>;
};
template <class A>
concept orders = requires(const A& a) {
  { a < a } -> std::convertible_to<bool>;
};
template <class A, class S>
concept multiplies_by = requires(const A& a, const S& factor) {
  { a* factor } -> std::convertible_to<A>;
};

/// Why an operator does not reduce a type; check_reduction has a sentence for each.
enum class Refusal {
  none,
  not_an_element,
  not_copyable,
  sum,
  product,
  order,
  avg_of_bool,
  avg,
  bits,
  logic,
  premul_of_bool,
  premul_factor,
  premul_fraction,
  premul,
  functor,
};

template <class S, class A>
constexpr Refusal premul_refusal() noexcept {
  if (!std::is_arithmetic_v<S> || std::is_same_v<S, bool>) return Refusal::premul_factor;
  if (std::is_same_v<A, bool>) return Refusal::premul_of_bool;
  if (std::is_integral_v<A> && std::is_floating_point_v<S>) return Refusal::premul_fraction;
  if (std::is_arithmetic_v<A> || (adds<A> && multiplies_by<A, S>)) return Refusal::none;
  return Refusal::premul;
}

template <class Op, class T>
constexpr Refusal refusal() noexcept {
  if constexpr (!element<T>) {
    return Refusal::not_an_element;
  } else if constexpr (!std::is_trivially_copyable_v<Op> || !std::is_copy_constructible_v<Op>) {
    return Refusal::not_copyable;
  } else {
    using A = typename element_traits<T>::accumulator;
    if constexpr (std::is_same_v<Op, Sum>) {
      return adds<A> ? Refusal::none : Refusal::sum;
    } else if constexpr (std::is_same_v<Op, Product>) {
      return multiplies<A> ? Refusal::none : Refusal::product;
    } else if constexpr (is_any_of<Op, Min, Max>) {
      return orders<A> ? Refusal::none : Refusal::order;
    } else if constexpr (std::is_same_v<Op, Avg>) {
      if (std::is_same_v<A, bool>) return Refusal::avg_of_bool;
      return adds<A> && divides_by_int<A> ? Refusal::none : Refusal::avg;
    } else if constexpr (is_any_of<Op, Band, Bor, Bxor>) {
      return std::is_integral_v<A> ? Refusal::none : Refusal::bits;
    } else if constexpr (is_any_of<Op, Land, Lor, Lxor>) {
      return std::is_arithmetic_v<A> ? Refusal::none : Refusal::logic;
    } else if constexpr (is_premul_sum<Op>) {
      return premul_refusal<decltype(Op::factor), A>();
    } else if constexpr (has_wider_accumulator<T> && folds_in_accumulator<Op, T>()) {
      return Refusal::none;
    } else {
      return joins<Op, T> ? Refusal::none : Refusal::functor;
    }
  }
}

}  // namespace detail

/// An operator that reduces elements of T: a built-in one that has a meaning for T, or any trivially copyable
/// callable `T op(T, T)`. It should be associative; operands come in ascending rank order, so that it need not
/// commute.
template <class Op, class T>
concept reduction_for = detail::refusal<Op, T>() == detail::Refusal::none;

/// Stops the compilation with one sentence if `Op` does not reduce elements of T.
template <class Op, class T>
constexpr void check_reduction() noexcept {
  using detail::Refusal;
  constexpr Refusal why = detail::refusal<Op, T>();
  static_assert(why != Refusal::not_an_element,
                "allfold: this type cannot be reduced; expected a trivially copyable, non-const object type that is "
                "no pointer and no array; copy the data into such a type first");
  static_assert(why != Refusal::not_copyable,
                "allfold: a reduction operator must be trivially copyable, since every lane runs a copy of it; "
                "capture plain values");
  static_assert(why != Refusal::sum,
                "allfold: sum needs `T operator+(T, T)` of the element type; define it, or pass a functor "
                "`T op(T, T)` instead");
  static_assert(why != Refusal::product,
                "allfold: product needs `T operator*(T, T)` of the element type; define it, or pass a functor "
                "`T op(T, T)` instead");
  static_assert(why != Refusal::order,
                "allfold: min and max need `bool operator<(T, T)` of the element type; define it, or pass a functor "
                "`T op(T, T)` instead");
  static_assert(why != Refusal::avg_of_bool,
                "allfold: avg of bool has no meaning; use allfold::sum (logical or) or allfold::product (logical and)");
  static_assert(why != Refusal::avg,
                "allfold: avg needs `T operator+(T, T)` and `T operator/(T, int)` of the element type; define them, or "
                "use allfold::sum and divide");
  static_assert(why != Refusal::bits,
                "allfold: band, bor and bxor combine integers and bool only; reduce the data as an unsigned integer "
                "type of the same size");
  static_assert(why != Refusal::logic,
                "allfold: land, lor and lxor combine arithmetic types only; pass a functor `T op(T, T)` instead");
  static_assert(why != Refusal::premul_of_bool,
                "allfold: premul_sum of bool has no meaning; use allfold::sum (logical or) or allfold::product "
                "(logical and)");
  static_assert(why != Refusal::premul_factor,
                "allfold: premul_sum needs a factor of an arithmetic type; write premul_sum(0.5F) or premul_sum(2)");
  static_assert(why != Refusal::premul_fraction,
                "allfold: premul_sum of integers needs a whole factor; write premul_sum(2), or reduce floats");
  static_assert(
      why != Refusal::premul,
      "allfold: premul_sum needs `T operator+(T, T)` and `T operator*(T, factor)` of the element type; define "
      "them, or scale the data and use allfold::sum");
  static_assert(why != Refusal::functor,
                "allfold: this operator does not combine two elements; expected a built-in one such as allfold::sum, "
                "or a callable `T op(T, T)` whose call operator is const");
}

/// How one operator folds elements of one type, on hosts and in kernels. The fold over ranks is
///   finish(merge(.. merge(merge(lift(x0), x1), x2) .., x_last), world_size)
/// in ascending rank order. 16-bit and narrower floats are combined in float and rounded once, in `finish`; with a
/// user's functor that holds if it takes two floats and returns float, else it combines T as it is.
///
/// A functor may also have `A lift(A) const`, applied to each operand, and `A finish(A, int world_size) const`,
/// applied to the last accumulator, as the built-in operators do. `static constexpr bool commutes = true` says that its
/// operands may come in any order, where results need not be reproducible.
template <class Op, class T>
struct Reduction {
  using value_type = T;
  using operator_type = Op;
  static constexpr bool folds_wide = detail::has_wider_accumulator<T> && detail::folds_in_accumulator<Op, T>();
  using accumulator = std::conditional_t<folds_wide, typename element_traits<T>::accumulator, T>;

  Op op;

  /// One operand as an accumulator.
  ALLFOLD_ANY_SIDE
  ALLFOLD_HD constexpr accumulator lift(const T& x) const noexcept {
    if constexpr (requires(const Op& o, accumulator a) {
                    { o.lift(a) } -> std::same_as<accumulator>;
                  }) {
      return op.lift(widen(x));
    } else {
      return widen(x);
    }
  }

  /// The accumulator of some ranks with the next rank's operand.
  ALLFOLD_ANY_SIDE
  ALLFOLD_HD constexpr accumulator merge(accumulator a, const T& x) const noexcept { return join(a, lift(x)); }

  /// The accumulators of two runs of ranks; `a` is of the lower ones.
  ALLFOLD_ANY_SIDE
  ALLFOLD_HD constexpr accumulator join(accumulator a, accumulator b) const noexcept {
    return static_cast<accumulator>(op(a, b));
  }

  /// The result, once every rank is in.
  ALLFOLD_ANY_SIDE
  ALLFOLD_HD constexpr T finish(accumulator a, int world_size) const noexcept {
    if constexpr (requires(const Op& o) {
                    { o.finish(a, world_size) } -> std::same_as<accumulator>;
                  }) {
      return narrow(op.finish(a, world_size));
    } else {
      return narrow(a);
    }
  }

 private:
  ALLFOLD_HD static constexpr accumulator widen(const T& x) noexcept {
    if constexpr (folds_wide) {
      return element_traits<T>::widen(x);
    } else {
      return x;
    }
  }
  ALLFOLD_HD static constexpr T narrow(const accumulator& a) noexcept {
    if constexpr (folds_wide) {
      return element_traits<T>::narrow(a);
    } else {
      return a;
    }
  }
};

}  // namespace allfold
