// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>
#include <type_traits>
#include <utility>

#include <allfold/base/config.hpp>
#include <allfold/base/hash.hpp>
#include <allfold/op/bfloat16.hpp>
#include <allfold/op/float16.hpp>

namespace allfold {

/// What collectives move and reduce: any trivially copyable object type that is no pointer, no array and not
/// const. The ranks see its bytes.
template <class T>
concept element = std::is_object_v<T> && std::is_trivially_copyable_v<T> && std::copyable<T> && !std::is_const_v<T> &&
                  !std::is_volatile_v<T> && !std::is_pointer_v<T> && !std::is_member_pointer_v<T> &&
                  !std::is_null_pointer_v<T> && !std::is_array_v<T>;

/// How elements of T are folded. Specialize it for a narrow type of your own:
/// - `accumulator`: the type in which operands are combined;
/// - `widen`, `narrow`: the way there, and back with one rounding;
/// - `name` (optional): the same on every rank, whatever compiler built it.
template <class T>
struct element_traits {
  using accumulator = T;
  ALLFOLD_HD static constexpr T widen(const T& x) noexcept { return x; }
  ALLFOLD_HD static constexpr T narrow(const T& x) noexcept { return x; }
};

template <>
struct element_traits<float16> {
  using accumulator = float;
  static constexpr std::string_view name = "float16";
  ALLFOLD_HD static constexpr float widen(float16 x) noexcept { return float(x); }
  ALLFOLD_HD static constexpr float16 narrow(float x) noexcept { return float16(x); }
};

template <>
struct element_traits<bfloat16> {
  using accumulator = float;
  static constexpr std::string_view name = "bfloat16";
  ALLFOLD_HD static constexpr float widen(bfloat16 x) noexcept { return float(x); }
  ALLFOLD_HD static constexpr bfloat16 narrow(float x) noexcept { return bfloat16(x); }
};

namespace detail {

/// Returns const char* and not a view: g++ would spell the view's alias out in the text.
template <class T>
constexpr const char* type_signature() noexcept {
  return __PRETTY_FUNCTION__;
}

/// T as the compiler spells it: what stands where `double` stands in the signature of double.
template <class T>
constexpr std::string_view spelled_type_name() noexcept {
  constexpr std::string_view probe = type_signature<double>();
  constexpr std::size_t before = probe.find("double");
  static_assert(before != std::string_view::npos, "allfold: this compiler's __PRETTY_FUNCTION__ names no types");
  constexpr std::size_t after = probe.size() - before - 6;
  const std::string_view text = type_signature<T>();
  return text.substr(before, text.size() - before - after);
}

template <class T>
constexpr std::string_view integer_name() noexcept {
  constexpr bool is_signed = std::is_signed_v<T>;
  switch (sizeof(T)) {
    case 1: return is_signed ? "int8" : "uint8";
    case 2: return is_signed ? "int16" : "uint16";
    case 4: return is_signed ? "int32" : "uint32";
    case 8: return is_signed ? "int64" : "uint64";
    default: return is_signed ? "int128" : "uint128";
  }
}

template <class T>
concept has_name = requires {
  { T::name } -> std::convertible_to<std::string_view>;
};

}  // namespace detail

/// The element type's name in messages, traces and checks between ranks: "float", "int32", "bool", "float16", ..;
/// other types as `element_traits<T>::name` says, else as the compiler spells them.
template <class T>
constexpr std::string_view type_name() noexcept {
  if constexpr (detail::has_name<element_traits<T>>) {
    return element_traits<T>::name;
  } else if constexpr (std::is_same_v<T, bool>) {
    return "bool";
  } else if constexpr (std::is_integral_v<T>) {
    return detail::integer_name<T>();
  } else {
    return detail::spelled_type_name<T>();
  }
}

/// A word that ranks compare to see whether they reduce the same type.
template <class T>
constexpr std::uint64_t type_identity() noexcept {
  constexpr std::uint64_t identity = hash_combine(fnv1a(type_name<T>()), sizeof(T));
  return identity;
}

/// Anything with `data()` and `size()` over elements: a span, vector, array, or SymmetricBuffer.
template <class R>
concept contiguous_elements = requires(R& range) {
  { std::data(range) } -> std::convertible_to<const void*>;
  { std::size(range) } -> std::convertible_to<std::size_t>;
};

/// The type of such a range's elements.
template <class R>
using element_of = std::remove_cv_t<std::remove_pointer_t<decltype(std::data(std::declval<R&>()))>>;

/// The element type of an output, which its input shares.
template <class In, class Out>
struct CheckedOutput {
  using type = element_of<Out>;
  static_assert(std::is_same_v<type, element_of<const In>>,
                "allfold: input and output of a collective have different element types; convert one of them first");
  static_assert(!std::is_const_v<std::remove_pointer_t<decltype(std::data(std::declval<Out&>()))>>,
                "allfold: the output of a collective is const; pass a buffer that can be written");
};
template <class In, class Out>
using checked_output_t = typename CheckedOutput<In, std::remove_reference_t<Out>>::type;

}  // namespace allfold
