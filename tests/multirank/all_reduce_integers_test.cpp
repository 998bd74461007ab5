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

/// Around the sizes of packets, lines and chunks, and one for each rank of 8 to have an unlike part of.
constexpr std::initializer_list<std::size_t> counts = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 65, 1023, 4099};
constexpr std::uint64_t seed = 20261121;

}  // namespace

TEST_CASE("sums of signed integers") {
  allfold_test::over_ranks(allfold_test::every_world_size, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    allfold_test::check_counts<std::int8_t>(comm, allfold::sum, counts, seed);
    allfold_test::check_counts<std::int16_t>(comm, allfold::sum, counts, seed);
    allfold_test::check_counts<std::int32_t>(comm, allfold::sum, counts, seed);
    allfold_test::check_counts<std::int64_t>(comm, allfold::sum, counts, seed);
  });
}

TEST_CASE("sums of unsigned integers") {
  allfold_test::over_ranks(allfold_test::every_world_size, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    allfold_test::check_counts<std::uint8_t>(comm, allfold::sum, counts, seed);
    allfold_test::check_counts<std::uint16_t>(comm, allfold::sum, counts, seed);
    allfold_test::check_counts<std::uint32_t>(comm, allfold::sum, counts, seed);
    allfold_test::check_counts<std::uint64_t>(comm, allfold::sum, counts, seed);
  });
}

TEST_CASE("large sums pass through the staging buffer in rounds") {
  allfold_test::over_ranks({2, 3, 8}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment, allfold::Options{.buffer_bytes = std::size_t{64} << 10});
    allfold_test::check_counts<std::int32_t>(comm, allfold::sum, {100003}, seed);
  });
}
