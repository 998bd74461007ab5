// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/base/environment.hpp>
#include <allfold/policy/options.hpp>

namespace allfold_test {

/// Sums (rank + 1) over the ranks, on the GPU that is current, in elements of T.
template <class T>
double sum_in_library(const allfold::Environment& environment, const allfold::Options& options);

}  // namespace allfold_test
