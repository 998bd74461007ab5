// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/policy/tracer.hpp>

namespace allfold {

/// Records nothing, at no cost: the default.
class NullTracer {
 public:
  using policy_category = tracer_tag;
  static constexpr bool enabled = false;
  void record(const TraceEvent&) noexcept {}
};
static_assert(tracer_policy<NullTracer>);

}  // namespace allfold
