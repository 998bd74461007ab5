// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include <allfold/base/config.hpp>
#include <allfold/base/error.hpp>
#include <allfold/policy/meeting.hpp>
#include <allfold/policy/message_options.hpp>

namespace allfold {

/// Throws MismatchError unless all ranks have the same of those options by which they would call different things.
/// Collective.
ALLFOLD_COLD inline void check_agreement(Meeting& meeting, const MessageOptions& options) {
  struct Agreed {
    bool all_gather_by_v, check_calls, health_check;
    bool operator==(const Agreed&) const = default;
  };
  const Agreed agreed{options.all_gather_by_v, options.check_calls, options.health_check};
  const std::vector<Agreed> all = meeting.all_gather("message options", agreed);
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r] == agreed) continue;
    const char* const name = all[r].check_calls != agreed.check_calls     ? "check_calls"
                             : all[r].health_check != agreed.health_check ? "health_check"
                                                                          : "all_gather_by_v";
    throw MismatchError(meeting.where(), static_cast<int>(r),
                        {"ranks disagree on MessageOptions::", name, "; this rank differs from rank ", r,
                         "; give every rank the same options and environment"});
  }
}

}  // namespace allfold
