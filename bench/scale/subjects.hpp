// SPDX-License-Identifier: Apache-2.0
#pragma once

/// What allfold_scale runs on the simulated network: every algorithm of every collective.

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include <allfold/exec/simulated_network.hpp>
#include <allfold/policy/message_algorithm.hpp>

namespace scale {

/// One algorithm of one collective.
struct Subject {
  std::string collective;
  std::string algorithm;
  bool reproducible = false;  ///< of those that fold
  bool folds = false;
  bool quadratic = false;  ///< P messages from each rank, and more
  /// The bytes of a call are those of a rank's whole vector: P parts where a collective divides it.
  std::function<allfold::Task<bool>(allfold::SimulatedEndpoint& e, std::size_t bytes)> run;
};

/// All of them, the algorithms of a collective one after another.
std::vector<Subject> all_subjects();

/// What the default thresholds choose; empty where a collective has no choice.
std::string chosen_algorithm(const std::string& collective, const allfold::MessageQuery& query);

}  // namespace scale
