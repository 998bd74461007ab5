// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/policy/algorithm.hpp>
#include <allfold/policy/selector.hpp>

namespace allfold {

/// Chooses one algorithm, at every size: the least to compile, and what a test of that algorithm wants. Answers
/// `none` where it cannot run.
template <Algorithm A>
class FixedSelector {
 public:
  using policy_category = selector_tag;
  static constexpr AlgorithmSet candidates = AlgorithmSet::of(A);

  constexpr Algorithm select(const SelectionQuery& query) const noexcept {
    return query.possible.contains(A) ? A : Algorithm::none;
  }
};
static_assert(selector_policy<FixedSelector<Algorithm::two_shot>>);

}  // namespace allfold
