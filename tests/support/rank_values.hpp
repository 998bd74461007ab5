// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <support/fields.hpp>
#include <support/oracle.hpp>

namespace allfold_test {

/// A rank's operands.
template <class T>
std::vector<T> values_of(int rank, std::size_t count, std::size_t from = 0) {
  std::vector<T> all(count);
  for (std::size_t i = 0; i < count; ++i) all[i] = element<T>(11, rank, from + i);
  return all;
}

/// Those of all ranks, one after another.
template <class T>
std::vector<T> values_of_all(int ranks, std::size_t count) {
  std::vector<T> all;
  all.reserve(static_cast<std::size_t>(ranks) * count);
  for (int r = 0; r < ranks; ++r) {
    const std::vector<T> theirs = values_of<T>(r, count);
    all.insert(all.end(), theirs.begin(), theirs.end());
  }
  return all;
}

/// The fold of all ranks' values.
template <class T, class Op>
std::vector<T> folded_values(const Op& op, int ranks, std::size_t count) {
  std::vector<T> all(count), operands(static_cast<std::size_t>(ranks));
  for (std::size_t i = 0; i < count; ++i) {
    for (int r = 0; r < ranks; ++r) operands[static_cast<std::size_t>(r)] = element<T>(11, r, i);
    all[i] = expected<T>(op, std::span<const T>(operands));
  }
  return all;
}

template <class T>
bool same_values(std::span<const T> a, std::span<const T> b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!same_bytes(a[i], b[i])) return false;
  }
  return true;
}

}  // namespace allfold_test
