// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The measurement: every size, every case, checked and then timed in turns.

#include <allfold/base/environment.hpp>

#include "report.hpp"
#include "turns.hpp"

namespace bench {

/// The whole life of one rank between its start and its report. Collective.
/// `report` is rank 0's, null on the others.
void sweep(const allfold::Environment& environment, const Plan& plan, Turns& turns, Report* report);

}  // namespace bench
