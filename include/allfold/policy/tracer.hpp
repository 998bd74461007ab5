// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <allfold/base/deadline.hpp>
#include <allfold/policy/algorithm.hpp>
#include <allfold/policy/categories.hpp>

namespace allfold {

/// One collective of one rank, for a tracer. The views live as long as the call of `record`.
struct TraceEvent {
  std::string_view operation;  ///< "all_reduce", "barrier", ..
  std::string_view type;       ///< element type; empty where there is none
  std::string_view reduction;  ///< operator; empty where there is none
  std::size_t count = 0;
  std::size_t bytes = 0;
  Algorithm algorithm = Algorithm::none;
  int rank = 0;
  int world_size = 1;
  int channel = 0;
  std::uint32_t sequence = 0;
  Clock::time_point begin;
  Clock::time_point end;
  bool failed = false;
};

/// Is told of every collective, failed ones too, on the rank's own thread. With `enabled == false` the clock is
/// not even read.
template <class T>
concept tracer_policy = policy_of<T, tracer_tag> && requires(T& tracer, const TraceEvent& event) {
  tracer.record(event);
  { T::enabled } -> std::convertible_to<bool>;
};

}  // namespace allfold
