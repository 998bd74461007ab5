// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/base/concat.hpp>
#include <allfold/base/hash.hpp>
#include <allfold/exec/simulated_network.hpp>

namespace allfold_test {

/// Byte `i` of what rank `rank` has for rank `other`.
inline unsigned char pattern(int rank, int other, std::size_t i) {
  return static_cast<unsigned char>(
      allfold::hash_mix(static_cast<std::uint64_t>(rank) * 8191 + static_cast<std::uint64_t>(other) + (i << 24)));
}

inline void fill(std::vector<unsigned char>& bytes, std::size_t begin, std::size_t size, int rank, int other) {
  for (std::size_t i = 0; i < size; ++i) bytes[begin + i] = pattern(rank, other, i);
}

inline bool holds(const std::vector<unsigned char>& bytes, std::size_t begin, std::size_t size, int rank, int other) {
  for (std::size_t i = 0; i < size; ++i) {
    if (bytes[begin + i] != pattern(rank, other, i)) return false;
  }
  return true;
}

/// World sizes around powers of two, and some beyond.
inline constexpr int world_sizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 32, 33, 64};

/// Networks on which a collective must give the same: short messages alone are sent before they are asked for, or all,
/// or none; folds are done at once, or beside the rank; ranks have a core each, or share two.
inline std::vector<allfold::NetworkModel> eager_models() {
  allfold::NetworkModel some;
  some.eager_bytes = 256;
  allfold::NetworkModel all = some;
  all.eager_bytes = std::size_t{1} << 40;
  allfold::NetworkModel none = some;
  none.eager_bytes = 0;
  none.offloads = true;
  some.cores = 2;
  some.turn_us = 0.5;
  some.send_us_per_byte = 1 / 5000.0;
  some.receive_us_per_byte = 1 / 5000.0;
  return {some, all, none};
}

/// Ranks begin apart, and messages overtake one another.
inline allfold::Disturbance uneven(std::uint64_t seed) { return {.seed = seed, .jitter_us = 30, .start_us = 50}; }

/// Says why a run failed, in doctest's words.
inline void check_run(const allfold::SimulatedRun& run, const std::string& what) {
  INFO(what);
  if (run.failure) INFO(run.failure->what);
  CHECK_MESSAGE(run.ok(), what, ": ", run.failure ? run.failure->what : std::string("a rank got false"));
}

}  // namespace allfold_test
