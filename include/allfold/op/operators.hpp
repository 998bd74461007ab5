// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>
#include <type_traits>

#include <allfold/base/config.hpp>
#include <allfold/base/hash.hpp>
#include <allfold/op/element.hpp>

/// The built-in reduction operators. Each combines two accumulators, the one of the lower ranks first; some also
/// prepare each operand (`lift`) or turn the accumulator into the result (`finish`). A class of your own may do
/// the same: see `Reduction`.

namespace allfold {

namespace detail {

/// An unsigned type at least as wide as unsigned int, in which sums and products wrap without overflow.
template <class T>
using wrapping_type = typename std::conditional_t<(sizeof(T) < sizeof(unsigned)), std::type_identity<unsigned>,
                                                  std::make_unsigned<T>>::type;

/// A product that the compiler does not fuse with the sum it goes into: whether it may is decided loop by loop, and
/// the bits of a result must not depend on that.
template <class A>
ALLFOLD_HD constexpr A rounded_product(A a, A b) noexcept {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<A, float>) {
    return __fmul_rn(a, b);
  } else if constexpr (std::is_same_v<A, double>) {
    return __dmul_rn(a, b);
  } else {
    return a * b;
  }
#elif defined(__clang__)
#pragma clang fp contract(off)
  const A product = a * b;
  return product;
#else
  A product = a * b;
#if defined(__FP_FAST_FMAF) || defined(__FP_FAST_FMA)
  if (!__builtin_is_constant_evaluated()) {
    // Costs the vectorization of this one operator; g++ has no way to say it that vectorizes.
#if defined(__x86_64__)
    if constexpr (sizeof(A) <= sizeof(double)) asm("" : "+x"(product));
#elif defined(__aarch64__)
    if constexpr (sizeof(A) <= sizeof(double)) asm("" : "+w"(product));
#else
    asm("" : "+m"(product));
#endif
  }
#endif
  return product;
#endif
}

}  // namespace detail

/// a + b. Integers wrap; of bool it is the logical or. Which NaN a sum of several NaNs is, is not defined.
struct Sum {
  static constexpr std::string_view name = "sum";

  template <class A>
  ALLFOLD_HD constexpr A operator()(A a, A b) const noexcept {
    if constexpr (std::is_same_v<A, bool>) {
      return a | b;
    } else if constexpr (std::is_integral_v<A>) {
      using U = detail::wrapping_type<A>;
      return static_cast<A>(static_cast<U>(a) + static_cast<U>(b));
    } else {
      return static_cast<A>(a + b);
    }
  }
};

/// a * b. Integers wrap; of bool it is the logical and.
struct Product {
  static constexpr std::string_view name = "product";

  template <class A>
  ALLFOLD_HD constexpr A operator()(A a, A b) const noexcept {
    if constexpr (std::is_same_v<A, bool>) {
      return a & b;
    } else if constexpr (std::is_integral_v<A>) {
      using U = detail::wrapping_type<A>;
      return static_cast<A>(static_cast<U>(a) * static_cast<U>(b));
    } else {
      return static_cast<A>(a * b);
    }
  }
};

/// The smaller; of equals (0 and -0) that of the lower rank. A NaN among floats is the result: the lowest rank's.
struct Min {
  static constexpr std::string_view name = "min";

  template <class A>
  ALLFOLD_HD constexpr A operator()(A a, A b) const noexcept {
    if constexpr (std::is_floating_point_v<A>) {
      return ((a <= b) | (a != a)) ? a : b;
    } else {
      return b < a ? b : a;
    }
  }
};

/// The larger; of equals (0 and -0) that of the lower rank. A NaN among floats is the result: the lowest rank's.
struct Max {
  static constexpr std::string_view name = "max";

  template <class A>
  ALLFOLD_HD constexpr A operator()(A a, A b) const noexcept {
    if constexpr (std::is_floating_point_v<A>) {
      return ((a >= b) | (a != a)) ? a : b;
    } else {
      return a < b ? b : a;
    }
  }
};

/// The sum divided by the world size. Integers truncate toward zero, after a sum that wraps; bool is refused.
struct Avg {
  static constexpr std::string_view name = "avg";

  template <class A>
  ALLFOLD_HD constexpr A operator()(A a, A b) const noexcept {
    return Sum{}(a, b);
  }

  template <class A>
  ALLFOLD_HD constexpr A finish(A sum, int world_size) const noexcept {
    if constexpr (std::is_integral_v<A>) {
      using Signed = std::conditional_t<(sizeof(A) < sizeof(int)), int, A>;
      using Divisor = std::conditional_t<std::is_signed_v<A>, Signed, detail::wrapping_type<A>>;
      return static_cast<A>(static_cast<Divisor>(sum) / static_cast<Divisor>(world_size));
    } else if constexpr (std::is_floating_point_v<A>) {
      return sum / static_cast<A>(world_size);
    } else {
      return static_cast<A>(sum / world_size);
    }
  }
};

/// a & b, of integers and bool.
struct Band {
  static constexpr std::string_view name = "band";

  template <class A>
  ALLFOLD_HD constexpr A operator()(A a, A b) const noexcept {
    return static_cast<A>(a & b);
  }
};

/// a | b, of integers and bool.
struct Bor {
  static constexpr std::string_view name = "bor";

  template <class A>
  ALLFOLD_HD constexpr A operator()(A a, A b) const noexcept {
    return static_cast<A>(a | b);
  }
};

/// a ^ b, of integers and bool.
struct Bxor {
  static constexpr std::string_view name = "bxor";

  template <class A>
  ALLFOLD_HD constexpr A operator()(A a, A b) const noexcept {
    return static_cast<A>(a ^ b);
  }
};

/// 1 if every operand is nonzero, else 0, of arithmetic types. A NaN counts as nonzero.
struct Land {
  static constexpr std::string_view name = "land";

  template <class A>
  ALLFOLD_HD constexpr A lift(A a) const noexcept {
    return static_cast<A>(a != A(0));
  }
  template <class A>
  ALLFOLD_HD constexpr A operator()(A a, A b) const noexcept {
    return static_cast<A>((a != A(0)) & (b != A(0)));
  }
};

/// 1 if any operand is nonzero, else 0, of arithmetic types. A NaN counts as nonzero.
struct Lor {
  static constexpr std::string_view name = "lor";

  template <class A>
  ALLFOLD_HD constexpr A lift(A a) const noexcept {
    return static_cast<A>(a != A(0));
  }
  template <class A>
  ALLFOLD_HD constexpr A operator()(A a, A b) const noexcept {
    return static_cast<A>((a != A(0)) | (b != A(0)));
  }
};

/// 1 if an odd number of operands is nonzero, else 0, of arithmetic types. A NaN counts as nonzero.
struct Lxor {
  static constexpr std::string_view name = "lxor";

  template <class A>
  ALLFOLD_HD constexpr A lift(A a) const noexcept {
    return static_cast<A>(a != A(0));
  }
  template <class A>
  ALLFOLD_HD constexpr A operator()(A a, A b) const noexcept {
    return static_cast<A>((a != A(0)) != (b != A(0)));
  }
};

/// The sum of the operands after each was multiplied by `factor`, which is converted to the accumulator's type.
/// Each product is rounded before the sum.
template <class S>
struct PremulSum {
  static constexpr std::string_view name = "premul_sum";

  S factor;

  template <class A>
  ALLFOLD_HD constexpr A lift(A a) const noexcept {
    if constexpr (std::is_integral_v<A>) {
      return Product{}(a, static_cast<A>(factor));
    } else if constexpr (std::is_floating_point_v<A>) {
      return detail::rounded_product(a, static_cast<A>(factor));
    } else {
      return static_cast<A>(a * factor);
    }
  }
  template <class A>
  ALLFOLD_HD constexpr A operator()(A a, A b) const noexcept {
    return Sum{}(a, b);
  }
};

inline constexpr Sum sum{};
inline constexpr Product product{};
inline constexpr Min min{};
inline constexpr Max max{};
inline constexpr Avg avg{};
inline constexpr Band band{};
inline constexpr Bor bor{};
inline constexpr Bxor bxor{};
inline constexpr Land land{};
inline constexpr Lor lor{};
inline constexpr Lxor lxor{};

/// Multiplies each rank's operand by `factor` before the sum: `premul_sum(1.0F / 3)`. The factor must be the same
/// on every rank.
template <class S>
constexpr PremulSum<S> premul_sum(S factor) noexcept {
  static_assert(std::is_arithmetic_v<S> && !std::is_same_v<S, bool>,
                "allfold: premul_sum needs a factor of an arithmetic type; write premul_sum(0.5F) or premul_sum(2)");
  return {factor};
}

/// The operator's name in messages, traces and checks between ranks: "sum", "avg", ..; a functor's own
/// `static constexpr std::string_view name` if it has one, else its type as the compiler spells it.
template <class Op>
constexpr std::string_view operator_name() noexcept {
  if constexpr (detail::has_name<Op>) {
    return Op::name;
  } else {
    return detail::spelled_type_name<Op>();
  }
}

namespace detail {

template <class S>
constexpr std::uint64_t state_identity(const PremulSum<S>& op) noexcept {
  if constexpr (std::is_floating_point_v<S>) {
    return hash_combine(fnv1a(type_name<S>()), __builtin_bit_cast(std::uint64_t, static_cast<double>(op.factor)));
  } else {
    return hash_combine(fnv1a(type_name<S>()), static_cast<std::uint64_t>(op.factor));
  }
}

}  // namespace detail

/// A word that ranks compare to see whether they reduce with the same operator: of its name, its size, and of
/// premul_sum's factor. The state of other functors is not looked at.
template <class Op>
constexpr std::uint64_t operator_identity(const Op& op) noexcept {
  constexpr std::uint64_t identity = hash_combine(fnv1a(operator_name<Op>()), sizeof(Op));
  if constexpr (requires { detail::state_identity(op); }) {
    return hash_combine(identity, detail::state_identity(op));
  } else {
    return identity;
  }
}

}  // namespace allfold
