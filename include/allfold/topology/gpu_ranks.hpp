// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include <allfold/base/error.hpp>
#include <allfold/policy/identity.hpp>

namespace allfold::detail {

/// The GPU's UUID as NVIDIA's tools write it: `GPU-` and 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12.
ALLFOLD_COLD inline std::string gpu_name(const Identity& rank) {
  std::string name = "GPU";
  for (std::size_t i = 0; i < sizeof rank.device_id; ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) name.push_back('-');
    const auto byte = static_cast<unsigned char>(rank.device_id[i]);
    name.push_back("0123456789abcdef"[byte >> 4U]);
    name.push_back("0123456789abcdef"[byte & 15U]);
  }
  return name;
}

/// Throws UsageError unless each of the ranks has a GPU and one window spans them all. `policy` is the class that asks.
ALLFOLD_COLD inline void check_gpu_ranks(std::span<const Identity> ranks, std::string_view policy) {
  if (ranks.size() > max_window_ranks) {
    throw UsageError("topology", {"a link matrix spans 1 to ", max_window_ranks, " ranks, got ", ranks.size(),
                                  "; try a message transport for larger worlds"});
  }
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (ranks[r].device >= 0) continue;
    throw UsageError("topology", {policy, " finds the links between GPUs, and rank ", r,
                                  " computes on a CPU; expected a GPU for every rank; try FixedTopology"});
  }
}

}  // namespace allfold::detail
