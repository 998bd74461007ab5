// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include <doctest/doctest.h>

#include <allfold/allfold.hpp>

#include <support/all_reduce.hpp>
#include <support/ranks.hpp>

using Comm = allfold::Communicator<allfold::FixedSelector<allfold::Algorithm::two_shot>>;

namespace {

constexpr std::initializer_list<std::size_t> counts = {1, 9, 67};
constexpr std::uint64_t seed = 20261122;

}  // namespace

TEST_CASE("every operator on int32") {
  using T = std::int32_t;
  allfold_test::over_ranks({1, 3, 4}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    allfold_test::check_counts<T>(comm, allfold::product, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::min, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::max, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::avg, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::band, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::bor, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::bxor, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::premul_sum(-3), counts, seed);
  });
}

TEST_CASE("operators that depend on the sign, on uint8") {
  using T = std::uint8_t;
  allfold_test::over_ranks({1, 3, 4}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    allfold_test::check_counts<T>(comm, allfold::product, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::min, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::max, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::avg, counts, seed);
  });
}

TEST_CASE("logical operators on bool") {
  using T = bool;
  allfold_test::over_ranks({1, 3, 4}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    allfold_test::check_counts<T>(comm, allfold::sum, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::product, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::land, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::lor, counts, seed);
    allfold_test::check_counts<T>(comm, allfold::lxor, counts, seed);
  });
}
