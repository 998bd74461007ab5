// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <allfold/base/deadline.hpp>
#include <allfold/policy/categories.hpp>

namespace allfold {

/// `wait`: a caller waited for an operation that had been started earlier.
enum class TraceKind : std::uint8_t { operation, wait };

/// One operation of one rank, or one wait for it, for a tracer. Views and spans live as long as the call that is given
/// the event. Of an operation on a stream, begin and end are those of its launch.
struct TraceEvent {
  TraceKind kind = TraceKind::operation;
  std::string_view operation;  ///< "all_reduce", "barrier", ..; of a wait: what is waited for
  std::string_view type;       ///< element type; empty where there is none
  std::string_view reduction;  ///< operator; empty where there is none
  std::string_view algorithm;  ///< its name; empty where there is none
  std::size_t count = 0;       ///< elements, as the caller gave them
  std::size_t in_bytes = 0;    ///< of this rank's input and output
  std::size_t out_bytes = 0;
  std::span<const std::size_t> in_splits;   ///< elements to each rank, where ranks' parts differ; else empty
  std::span<const std::size_t> out_splits;  ///< elements from each rank
  int rank = 0;
  int world_size = 1;
  int root = -1;               ///< -1: there is none
  int peer = -1;               ///< of a send or receive; -1: none, or any
  int tag = -1;                ///< the user's; -1: there is none
  int channel = 0;             ///< -1: of messages, which have a sequence of their own
  std::uint32_t sequence = 0;  ///< counts the channel's operations from 1; a wait has that of its operation
  Clock::time_point begin;
  Clock::time_point end;
  std::uint64_t mark = 0;  ///< what the tracer's `begin` returned
  bool failed = false;
  std::string_view error;  ///< why, where it failed
};

/// Is told of every operation that was started, once it has ended, failed ones too, and of waits. With `enabled ==
/// false` the clock is not even read.
///
///   record(event)            must not throw: the operation has had its effect
///
/// A tracer may have these too:
///   open(rank, world_size)   called once, by create, before the first operation; may throw, and then create fails
///   begin(event) -> std::uint64_t
///                            called before an operation starts; `end` is not set. What it returns is the event's
///                            `mark` when it is recorded; 0: it was not called. Must not throw
///
/// A communicator that has a thread of its own calls `record` from there for operations, and from the callers' threads
/// for waits: a tracer for such communicators is thread-safe by itself. Events of one channel may come out of the order
/// of their sequence.
template <class T>
concept tracer_policy = policy_of<T, tracer_tag> && requires(T& tracer, const TraceEvent& event) {
  tracer.record(event);
  { T::enabled } -> std::convertible_to<bool>;
};

/// Tells a tracer whose it is, where it wants to know.
template <tracer_policy T>
void open_tracer(T& tracer, int rank, int world_size) {
  if constexpr (requires { tracer.open(rank, world_size); }) tracer.open(rank, world_size);
}

/// Starts an event's clock; all else that is known of it beforehand is set.
template <tracer_policy T>
void begin_trace(T& tracer, TraceEvent& event) {
  if constexpr (T::enabled) {
    if constexpr (requires { event.mark = tracer.begin(event); }) event.mark = tracer.begin(event);
    event.begin = Clock::now();
  }
}

/// Stops an event's clock, and records it. `error`: why it failed, if it did.
template <tracer_policy T>
void end_trace(T& tracer, TraceEvent& event, std::string_view error = {}) {
  if constexpr (T::enabled) {
    event.end = Clock::now();
    event.failed = !error.empty();
    event.error = error;
    tracer.record(event);
  }
}

}  // namespace allfold
