// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/base/config.hpp>
#include <allfold/base/variables.hpp>
#include <allfold/policy/link_matrix.hpp>

namespace allfold {

/// What a user may force from outside, to work around or to test. Must be the same on every rank.
struct TopologyOverrides {
  /// ALLFOLD_FORCE_FULLY_CONNECTED=1: take every pair of ranks for linked, whatever was found.
  bool force_fully_connected = false;
  /// ALLFOLD_DISABLE_FAST_PATH=1: take every selector's answer for `none`, the communicator's fallback.
  bool disable_fast_path = false;

  /// @throws UsageError if a variable is neither empty nor 0, 1, false or true.
  ALLFOLD_COLD static TopologyOverrides from_environment() {
    TopologyOverrides overrides;
    overrides.force_fully_connected = boolean_variable("ALLFOLD_FORCE_FULLY_CONNECTED").value_or(false);
    overrides.disable_fast_path = boolean_variable("ALLFOLD_DISABLE_FAST_PATH").value_or(false);
    return overrides;
  }

  /// What the communicator goes by, where `detected` was found.
  constexpr TopologyKind apply(TopologyKind detected) const noexcept {
    return force_fully_connected ? TopologyKind::fully_connected : detected;
  }

  friend constexpr bool operator==(const TopologyOverrides&, const TopologyOverrides&) = default;
};

}  // namespace allfold
