// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <complex>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/op/reduction.hpp>

namespace user {

struct Point {
  float x = 0;
  float y = 0;
  friend constexpr Point operator+(Point a, Point b) { return {a.x + b.x, a.y + b.y}; }
  friend constexpr Point operator*(Point a, float factor) { return {a.x * factor, a.y * factor}; }
  friend constexpr Point operator/(Point a, int n) {
    return {a.x / static_cast<float>(n), a.y / static_cast<float>(n)};
  }
  friend constexpr bool operator==(const Point&, const Point&) = default;
};

struct Best {
  float value = 0;
  int index = 0;
  friend constexpr bool operator<(const Best& a, const Best& b) { return a.value < b.value; }
};

struct Hypotenuse {
  static constexpr std::string_view name = "hypotenuse";
  constexpr float lift(float x) const { return x * x; }
  constexpr float operator()(float a, float b) const { return a + b; }
  constexpr float finish(float a, int) const { return a == 25.0F ? 5.0F : -1.0F; }
};

struct Named {
  int value = 0;
};

struct NotCopyable {
  NotCopyable(const NotCopyable&) {}
};

enum class Color : std::uint8_t { red, green };

}  // namespace user

template <>
struct allfold::element_traits<user::Named> {
  using accumulator = user::Named;
  static constexpr std::string_view name = "named by its user";
  static constexpr user::Named widen(user::Named x) { return x; }
  static constexpr user::Named narrow(user::Named x) { return x; }
};

namespace {

using namespace allfold;

/// The fold over ranks, as the contract spells it.
template <class Op, class T>
constexpr T fold(Op op, std::initializer_list<T> ranks) {
  check_reduction<Op, T>();
  const Reduction<Op, T> reduction{op};
  const T* x = ranks.begin();
  auto sum = reduction.lift(*x++);
  while (x != ranks.end()) sum = reduction.merge(sum, *x++);
  return reduction.finish(sum, static_cast<int>(ranks.size()));
}

const auto nan = std::numeric_limits<float>::quiet_NaN();

TEST_CASE_TEMPLATE("integers: sum and product wrap, the others as their names say", T, std::int8_t, std::uint8_t,
                   std::int16_t, std::uint16_t, std::int32_t, std::uint32_t, std::int64_t, std::uint64_t, long long) {
  constexpr T low = std::numeric_limits<T>::min();
  constexpr T high = std::numeric_limits<T>::max();
  CHECK(fold<Sum, T>(sum, {3, 4, 5}) == 12);
  CHECK(fold<Sum, T>(sum, {high, 1}) == low);
  CHECK(fold<Sum, T>(sum, {low, static_cast<T>(-1)}) == static_cast<T>(low - 1ULL));
  CHECK(fold<Product, T>(product, {3, 4, 5}) == 60);
  CHECK(fold<Product, T>(product, {high, high}) == 1);
  CHECK(fold<Min, T>(min, {3, low, high}) == low);
  CHECK(fold<Max, T>(max, {3, low, high}) == high);
  CHECK(fold<Avg, T>(avg, {3, 4, 4}) == 3);
  CHECK(fold<Avg, T>(avg, {high, 1}) == static_cast<T>(low / 2));
  CHECK(fold<Band, T>(band, {12, 10, 8}) == 8);
  CHECK(fold<Bor, T>(bor, {12, 10, 1}) == 15);
  CHECK(fold<Bxor, T>(bxor, {12, 10, 1}) == 7);
  CHECK(fold<Land, T>(land, {12, 10, 1}) == 1);
  CHECK(fold<Land, T>(land, {12, 0, 1}) == 0);
  CHECK(fold<Lor, T>(lor, {0, 0, 7}) == 1);
  CHECK(fold<Lor, T>(lor, {0, 0, 0}) == 0);
  CHECK(fold<Lxor, T>(lxor, {12, 10, 0}) == 0);
  CHECK(fold<Lxor, T>(lxor, {12, 10, 1}) == 1);
  CHECK(fold<PremulSum<int>, T>(premul_sum(3), {3, 4, 5}) == 36);
  CHECK(fold<PremulSum<int>, T>(premul_sum(2), {high, 0}) == static_cast<T>(-2));
  if constexpr (std::is_signed_v<T>) {
    CHECK_MESSAGE((fold<Avg, T>(avg, {-3, -4, -4}) == -3), "truncates toward zero");
    CHECK(fold<PremulSum<int>, T>(premul_sum(-1), {3, 4}) == -7);
  } else {
    CHECK(fold<Avg, T>(avg, {high, 0}) == high / 2);
  }
}

TEST_CASE_TEMPLATE("one rank's operand is still lifted and finished", T, int, float, float16, bfloat16) {
  CHECK(float(fold<Land, T>(land, {T(7)})) == 1.0F);
  CHECK(float(fold<Lor, T>(lor, {T(-3)})) == 1.0F);
  CHECK(float(fold<Lxor, T>(lxor, {T(0)})) == 0.0F);
  CHECK(float(fold<PremulSum<int>, T>(premul_sum(2), {T(7)})) == 14.0F);
  CHECK(float(fold<Avg, T>(avg, {T(7)})) == 7.0F);
  CHECK(float(fold<Max, T>(max, {T(7)})) == 7.0F);
}

TEST_CASE("bool: sum is or, product is and, and no avg") {
  for (const bool a : {false, true}) {
    for (const bool b : {false, true}) {
      CHECK(fold(sum, {a, b}) == (a || b));
      CHECK(fold(product, {a, b}) == (a && b));
      CHECK(fold(min, {a, b}) == (a && b));
      CHECK(fold(max, {a, b}) == (a || b));
      CHECK(fold(band, {a, b}) == (a && b));
      CHECK(fold(bor, {a, b}) == (a || b));
      CHECK(fold(bxor, {a, b}) == (a != b));
      CHECK(fold(land, {a, b}) == (a && b));
      CHECK(fold(lor, {a, b}) == (a || b));
      CHECK(fold(lxor, {a, b}) == (a != b));
    }
  }
  CHECK(fold(sum, {true, true, true}) == true);
  CHECK(fold(lxor, {true, true, true}) == true);
}

TEST_CASE_TEMPLATE("floats: the operators", T, float, double, float16, bfloat16) {
  const auto value = [](auto op, std::initializer_list<T> ranks) { return static_cast<float>(fold(op, ranks)); };
  CHECK(value(sum, {T(1), T(2), T(4.5F)}) == 7.5F);
  CHECK(value(product, {T(1.5F), T(2), T(-4)}) == -12.0F);
  CHECK(value(min, {T(3), T(-2), T(4)}) == -2.0F);
  CHECK(value(max, {T(3), T(-2), T(4)}) == 4.0F);
  CHECK(value(avg, {T(3), T(-2), T(5)}) == 2.0F);
  CHECK(value(land, {T(3), T(nan)}) == 1.0F);
  CHECK(value(land, {T(3), T(-0.0F)}) == 0.0F);
  CHECK(value(lor, {T(0), T(-0.0F)}) == 0.0F);
  CHECK(value(lxor, {T(3), T(0.5F), T(1)}) == 1.0F);
  CHECK(value(premul_sum(0.5F), {T(3), T(-2), T(5)}) == 3.0F);
  CHECK(value(premul_sum(0.5), {T(3), T(-2), T(5)}) == 3.0F);
}

TEST_CASE_TEMPLATE("floats: min and max keep NaNs, and the lower rank's of equals", T, float, double, float16,
                   bfloat16) {
  const auto value = [](auto op, std::initializer_list<T> ranks) { return static_cast<float>(fold(op, ranks)); };
  for (const float other :
       {-1.0F, 0.0F, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    CHECK(std::isnan(value(min, {T(nan), T(other)})));
    CHECK(std::isnan(value(min, {T(other), T(nan), T(other)})));
    CHECK(std::isnan(value(max, {T(nan), T(other)})));
    CHECK(std::isnan(value(max, {T(other), T(nan), T(other)})));
  }
  CHECK(std::signbit(value(min, {T(-0.0F), T(0.0F)})));
  CHECK_FALSE(std::signbit(value(min, {T(0.0F), T(-0.0F)})));
  CHECK(std::signbit(value(max, {T(-0.0F), T(0.0F)})));
  CHECK_FALSE(std::signbit(value(max, {T(0.0F), T(-0.0F)})));
  CHECK_MESSAGE(std::signbit(value(max, {T(-nan), T(nan)})) == std::signbit(-nan), "the lowest rank's NaN");
}

TEST_CASE_TEMPLATE("16-bit floats are combined in float and rounded once", T, float16, bfloat16) {
  static_assert(std::is_same_v<typename Reduction<Sum, T>::accumulator, float>);
  static_assert(std::is_same_v<typename Reduction<Max, T>::accumulator, float>);
  static_assert(std::is_same_v<typename Reduction<PremulSum<double>, T>::accumulator, float>);
  // Half a unit in the last place, twice: rounded in between, both would be lost.
  const float last_place = std::is_same_v<T, float16> ? 0x1p-10F : 0x1p-7F;
  CHECK(float(fold(sum, {T(1), T(last_place / 2), T(last_place / 2)})) == 1.0F + last_place);
  // Beyond float16's range in between.
  CHECK(float(fold(avg, {T(60000), T(60000), T(60000)})) == float(T(60000)));
  CHECK(float(fold(product, {T(4096), T(4096), T(0x1p-20F)})) == 16.0F);
}

TEST_CASE("avg divides floats by the world size, and does not multiply by its reciprocal") {
  std::mt19937 random(20261121);
  for (int i = 0; i < 1000; ++i) {
    const auto x = static_cast<float>(random());
    CHECK(fold(avg, {x, 0.0F, 0.0F}) == x / 3.0F);
  }
}

TEST_CASE("premul_sum rounds each product before the sum, fused instructions or not") {
  const unsigned seed = std::random_device{}();
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  std::vector<float> a(1003), b(1003), out(1003);
  for (std::size_t i = 0; i < a.size(); ++i) {
    a[i] = static_cast<float>(random()) / 65536.0F;
    b[i] = -a[i] * (1.0F + 0x1p-22F);
  }
  const Reduction<PremulSum<float>, float> reduction{premul_sum(0.3F)};
  for (std::size_t i = 0; i < a.size(); ++i) {
    out[i] = reduction.finish(reduction.merge(reduction.lift(a[i]), b[i]), 2);
  }
  for (std::size_t i = 0; i < a.size(); ++i) {
    volatile float left = a[i] * 0.3F;
    volatile float right = b[i] * 0.3F;
    REQUIRE(out[i] == left + right);
  }
}

TEST_CASE("the fold's steps fit together in any grouping of whole numbers") {
  const Reduction<Sum, float16> reduction{sum};
  const float16 x[] = {float16(1), float16(2), float16(3), float16(4)};
  const float quads =
      reduction.join(reduction.merge(reduction.lift(x[0]), x[1]), reduction.merge(reduction.lift(x[2]), x[3]));
  CHECK(float(reduction.finish(quads, 4)) == 10.0F);
}

TEST_CASE("functors: lambdas, function objects and pointers, over builtins and user types") {
  const auto last = [](int, int b) { return b; };
  CHECK_MESSAGE(fold(last, {1, 2, 3}) == 3, "operands come in rank order");
  const auto small = [](std::int8_t a, std::int8_t b) { return a + b; };
  CHECK_MESSAGE((fold<decltype(small), std::int8_t>(small, {100, 100}) == -56), "int converts back");
  int (*pointer)(int, int) = [](int a, int b) { return a * 10 + b; };
  CHECK(fold(pointer, {1, 2, 3}) == 123);
  int base = 7;
  const auto captured = [base](int a, int b) { return a * base + b; };
  CHECK(fold(captured, {1, 2, 3}) == 66);
  const auto best = [](user::Best a, user::Best b) { return a.value < b.value ? b : a; };
  CHECK(fold(best, {user::Best{1, 0}, user::Best{3, 1}, user::Best{3, 2}}).index == 1);
  CHECK(fold(user::Hypotenuse{}, {3.0F, 4.0F}) == 5.0F);
}

TEST_CASE_TEMPLATE("functors over 16-bit floats fold in float if they take and return float", T, float16, bfloat16) {
  const auto generic = [](auto a, auto b) { return a + b; };
  const auto wide = [](float a, float b) { return a + b; };
  const auto narrow = [](T a, T b) { return T(float(a) + float(b)); };
  const auto doubles = [](double a, double b) { return a + b; };
  static_assert(Reduction<decltype(generic), T>::folds_wide && Reduction<decltype(wide), T>::folds_wide);
  static_assert(!Reduction<decltype(narrow), T>::folds_wide);
  static_assert(std::is_same_v<typename Reduction<decltype(narrow), T>::accumulator, T>);
  static_assert(!reduction_for<decltype(doubles), T>);
  const float half = std::is_same_v<T, float16> ? 0x1p-11F : 0x1p-8F;
  CHECK(float(fold(generic, {T(1), T(half), T(half)})) == 1.0F + 2 * half);
  CHECK(float(fold(wide, {T(1), T(half), T(half)})) == 1.0F + 2 * half);
  CHECK_MESSAGE(float(fold(narrow, {T(1), T(half), T(half)})) == 1.0F, "rounded at each step, as it was written");
  CHECK(float(fold(user::Hypotenuse{}, {T(3), T(4)})) == 5.0F);
}

TEST_CASE("user types with operators take the built-in reductions") {
  using user::Point;
  CHECK(fold(sum, {Point{1, 2}, Point{3, 4}}) == Point{4, 6});
  CHECK(fold(avg, {Point{1, 2}, Point{3, 4}}) == Point{2, 3});
  CHECK(fold(premul_sum(2.0F), {Point{1, 2}, Point{3, 4}}) == Point{8, 12});
  CHECK(fold(max, {user::Best{1, 0}, user::Best{3, 1}, user::Best{3, 2}}).index == 1);
  CHECK(fold(min, {user::Best{1, 0}, user::Best{3, 1}, user::Best{1, 2}}).index == 0);
  CHECK(fold(sum, {std::complex<double>(1, 2), std::complex<double>(3, 4)}) == std::complex<double>(4, 6));
  CHECK(fold(max, {user::Color::red, user::Color::green}) == user::Color::green);
}

TEST_CASE("what has no meaning is no reduction") {
  using user::Point;
  static_assert(!reduction_for<Avg, bool> && !reduction_for<PremulSum<int>, bool>);
  static_assert(!reduction_for<PremulSum<float>, int> && reduction_for<PremulSum<int>, float>);
  static_assert(!reduction_for<Band, float> && !reduction_for<Bxor, bfloat16> && !reduction_for<Bor, Point>);
  static_assert(!reduction_for<Land, Point> && reduction_for<Land, float16> && reduction_for<Lxor, double>);
  static_assert(!reduction_for<Product, Point> && !reduction_for<Max, Point> && !reduction_for<Sum, user::Best>);
  static_assert(!reduction_for<Sum, const float> && !reduction_for<Sum, float*> && !reduction_for<Sum, std::string>);
  static_assert(!reduction_for<Sum, float[2]> && !reduction_for<Sum, float&> && !reduction_for<Sum, user::NotCopyable>);
  static_assert(!reduction_for<int, float> && !reduction_for<void (*)(float, float), float>);
  static_assert(!reduction_for<Sum, user::Color> && reduction_for<Min, user::Color>);
  const std::string text = "captured";
  const auto holds_text = [text](int a, int b) { return text.empty() ? a : b; };
  const auto writes = [calls = 0](int a, int b) mutable { return ++calls > 0 ? a : b; };
  CHECK_FALSE(reduction_for<decltype(holds_text), int>);
  CHECK_FALSE(reduction_for<decltype(writes), int>);
  CHECK(element<Point>);
  CHECK_FALSE(element<decltype(nullptr)>);
}

TEST_CASE("types have names that do not depend on the compiler") {
  CHECK(type_name<float>() == "float");
  CHECK(type_name<double>() == "double");
  CHECK(type_name<bool>() == "bool");
  CHECK(type_name<signed char>() == "int8");
  CHECK(type_name<unsigned char>() == "uint8");
  CHECK(type_name<std::int16_t>() == "int16");
  CHECK(type_name<unsigned>() == "uint32");
  CHECK(type_name<long>() == "int64");
  CHECK(type_name<long long>() == "int64");
  CHECK(type_name<float16>() == "float16");
  CHECK(type_name<bfloat16>() == "bfloat16");
  CHECK(type_name<user::Point>() == "user::Point");
  CHECK(type_name<user::Named>() == "named by its user");
  static_assert(type_identity<long>() == type_identity<long long>());
  static_assert(type_identity<float>() != type_identity<std::int32_t>());
  static_assert(type_identity<float16>() != type_identity<bfloat16>());
  static_assert(type_identity<std::uint32_t>() != type_identity<std::int32_t>());
}

TEST_CASE("operators have names, and identities that tell factors apart") {
  CHECK(operator_name<Sum>() == "sum");
  CHECK(operator_name<Product>() == "product");
  CHECK(operator_name<Min>() == "min");
  CHECK(operator_name<Max>() == "max");
  CHECK(operator_name<Avg>() == "avg");
  CHECK(operator_name<Band>() == "band");
  CHECK(operator_name<Bor>() == "bor");
  CHECK(operator_name<Bxor>() == "bxor");
  CHECK(operator_name<Land>() == "land");
  CHECK(operator_name<Lor>() == "lor");
  CHECK(operator_name<Lxor>() == "lxor");
  CHECK(operator_name<PremulSum<float>>() == "premul_sum");
  CHECK(operator_name<user::Hypotenuse>() == "hypotenuse");
  CHECK(operator_name<std::plus<float>>() == "std::plus<float>");
  static_assert(operator_identity(sum) != operator_identity(avg));
  static_assert(operator_identity(premul_sum(0.5F)) == operator_identity(premul_sum(0.5F)));
  static_assert(operator_identity(premul_sum(0.5F)) != operator_identity(premul_sum(0.25F)));
  static_assert(operator_identity(premul_sum(2)) != operator_identity(premul_sum(2.0F)));
  static_assert(operator_identity(premul_sum(0.0)) != operator_identity(premul_sum(-0.0)));
}

static_assert(fold(sum, {1, 2, 3}) == 6);
static_assert(float(fold(avg, {float16(1), float16(2)})) == 1.5F);
static_assert(fold(premul_sum(0.5F), {1.0F, 2.0F}) == 1.5F);
static_assert(std::is_trivially_copyable_v<Reduction<PremulSum<float>, float16>> && std::is_empty_v<Sum>);

}  // namespace
