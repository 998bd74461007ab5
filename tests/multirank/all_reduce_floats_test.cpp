// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include <doctest/doctest.h>

#include <allfold/allfold.hpp>

#include <support/all_reduce.hpp>
#include <support/ranks.hpp>

using Comm = allfold::Communicator<>;

namespace {

constexpr std::initializer_list<std::size_t> counts = {0, 1, 3, 8, 17, 1025};
constexpr std::uint64_t seed = 20261123;

}  // namespace

TEST_CASE("sums of float and double") {
  allfold_test::over_ranks(allfold_test::every_world_size, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    allfold_test::check_counts<float>(comm, allfold::sum, counts, seed);
    allfold_test::check_counts<double>(comm, allfold::sum, counts, seed);
  });
}

TEST_CASE("16-bit floats are folded in float and rounded once") {
  allfold_test::over_ranks(allfold_test::every_world_size, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    allfold_test::check_counts<allfold::float16>(comm, allfold::sum, counts, seed);
    allfold_test::check_counts<allfold::bfloat16>(comm, allfold::sum, counts, seed);
  });
}

TEST_CASE("operators with a step before or after the sum") {
  allfold_test::over_ranks({1, 3, 8}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    allfold_test::check_counts<float>(comm, allfold::avg, counts, seed);
    allfold_test::check_counts<allfold::bfloat16>(comm, allfold::avg, counts, seed);
    allfold_test::check_counts<float>(comm, allfold::premul_sum(1.0F / 3), counts, seed);
    allfold_test::check_counts<allfold::float16>(comm, allfold::premul_sum(0.7F), counts, seed);
  });
}

TEST_CASE("the largest of floats") {
  allfold_test::over_ranks({1, 3, 8}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    allfold_test::check_counts<double>(comm, allfold::max, counts, seed);
    allfold_test::check_counts<allfold::float16>(comm, allfold::min, counts, seed);
  });
}
