// SPDX-License-Identifier: Apache-2.0
#pragma once

/// allfold among CPU ranks.

#include <memory>
#include <vector>

#include <allfold/allfold.hpp>

#include "subject.hpp"

namespace bench {

/// Among CPU ranks. On GPUs too the ranks' host threads meet and compare numbers through one.
using Comm = allfold::Communicator<>;

/// The selector that the plan asks for.
inline allfold::TunedSelector selector_of(const Plan& plan) {
  return plan.table_file.empty() ? allfold::TunedSelector() : allfold::TunedSelector::from_file(plan.table_file);
}

/// The most of each among the ranks. Collective.
std::vector<double> most_of(Comm& comm, std::vector<double> values);

/// Collective: symmetric memory is allocated.
std::unique_ptr<Subject> make_host_subject(Comm& comm, const Plan& plan);

}  // namespace bench
