// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

#include <allfold/policy/algorithm.hpp>
#include <allfold/policy/categories.hpp>

namespace allfold {

/// Chooses the algorithm of an all-reduce. `candidates` names all it may ever choose: only those are compiled.
/// `select` must depend on the query alone: every rank asks its own selector, and all must answer alike.
template <class S>
concept selector_policy = policy_of<S, selector_tag> && requires(const S& selector, const SelectionQuery& query) {
  { selector.select(query) } -> std::same_as<Algorithm>;
  { S::candidates } -> std::convertible_to<AlgorithmSet>;
};

}  // namespace allfold
