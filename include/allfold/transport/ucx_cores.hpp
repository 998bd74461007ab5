// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <sched.h>

#include <allfold/base/config.hpp>
#include <allfold/policy/identity.hpp>
#include <allfold/policy/meeting.hpp>

namespace allfold::detail {

/// Whether this host has more ranks than cores that they may use together: who waits then gives its core away. Ranks
/// that are bound to a core each are not too many. Collective.
ALLFOLD_COLD inline bool more_ranks_than_cores(Meeting& meeting, std::span<const Identity> ranks) {
  struct Cores {  // cpu_set_t has no name of its own, and nvcc 13 dies on the destructor call of such a type
    cpu_set_t set;
  } mine;
  CPU_ZERO(&mine.set);
  if (::sched_getaffinity(0, sizeof mine.set, &mine.set) != 0) CPU_SET(0, &mine.set);  // a machine too large for it
  const std::vector<Cores> of_rank = meeting.all_gather("cores", mine);
  cpu_set_t all;
  CPU_ZERO(&all);
  int neighbours = 0;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (ranks[r].host != ranks[static_cast<std::size_t>(meeting.rank())].host) continue;
    CPU_OR(&all, &all, &of_rank[r].set);
    ++neighbours;
  }
  return neighbours > CPU_COUNT(&all);
}

}  // namespace allfold::detail
