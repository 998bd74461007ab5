// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Turns measurements of every algorithm into a selector's table.

#include <cstddef>
#include <string>
#include <vector>

#include <allfold/policy/algorithm.hpp>

#include "report.hpp"

namespace bench {

/// One algorithm up to a size, after the sizes of the one before.
struct Step {
  std::size_t max_bytes = 0;
  allfold::Algorithm algorithm = allfold::Algorithm::none;
};

/// The steps that serve one kind of buffers best: the choice with the least sum, over all sizes, of the logarithm of
/// time, where each change of algorithm costs 10 %. So a size at which another was faster by chance makes no step.
/// On GPUs the time is that in graphs.
std::vector<Step> best_steps(const std::vector<Row>& rows, Buffers buffers);

/// A table for TunedSelector, as text. The last step of each kind holds for every larger size.
std::string tuned_table(const std::vector<Row>& rows, const Plan& plan, int world_size);

}  // namespace bench
