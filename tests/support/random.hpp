// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include <doctest/doctest.h>

#include <allfold/base/hash.hpp>
#include <allfold/base/variables.hpp>

namespace allfold_test {

/// A small generator of random words (a counter, mixed). Two of one seed give the same sequence, on any rank.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(allfold::hash_mix(seed + 1)) {}

  std::uint64_t next() { return allfold::hash_mix(state_ += 0x9e3779b97f4a7c15ULL); }
  /// A number from 0 to n - 1.
  std::uint64_t below(std::uint64_t n) { return next() % n; }
  std::uint64_t between(std::uint64_t low, std::uint64_t high) { return low + below(high - low + 1); }
  bool chance(unsigned percent) { return below(100) < percent; }
  template <class T, std::size_t N>
  const T& pick(const T (&choices)[N]) {
    return choices[below(N)];
  }

 private:
  std::uint64_t state_;
};

/// The seed of a random test: ALLFOLD_TEST_SEED, or another one at each run. Printed always, so that a failure can
/// be repeated. For the test's own process, before ranks start.
inline std::uint64_t test_seed() {
  const auto given = allfold::integer_variable("ALLFOLD_TEST_SEED", 0, 0x7fffffffffffffffLL);
  const auto now = static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  const std::uint64_t seed = given ? static_cast<std::uint64_t>(*given) : allfold::hash_mix(now) >> 33;
  MESSAGE("seed " << seed << "; to repeat: ALLFOLD_TEST_SEED=" << seed);
  return seed;
}

}  // namespace allfold_test
