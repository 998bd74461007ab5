// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string_view>
#include <utility>
#include <vector>

#include <allfold/base/config.hpp>
#include <allfold/base/function_ref.hpp>
#include <allfold/communicator/message_arguments.hpp>
#include <allfold/launch/message_operation.hpp>
#include <allfold/memory/message_record.hpp>
#include <allfold/policy/tracer.hpp>

namespace allfold {

/// Tells a tracer of one operation over messages: when it begins, when it ends, and when the caller has waited for it.
template <tracer_policy Tracer>
class TracedCall {
 public:
  /// `event`: all that is known beforehand; what its views show lives for ever, its splits as long as this call.
  TracedCall(Tracer& tracer, const TraceEvent& event)
      : tracer_(&tracer),
        event_(event),
        in_splits_(event.in_splits.begin(), event.in_splits.end()),
        out_splits_(event.out_splits.begin(), event.out_splits.end()) {
    begin_trace(tracer, event_);
  }

  void ended(const MessageOperation& operation) noexcept {
    refer_to_splits();
    if (!operation.error()) return end_trace(*tracer_, event_);
    try {
      std::rethrow_exception(operation.error());
    } catch (const std::exception& error) {
      end_trace(*tracer_, event_, error.what());
    }
  }

  /// The operation may end meanwhile: of its event this reads only what is set from the beginning.
  void around(FunctionRef<void()> wait) const {
    TraceEvent event;
    event.kind = TraceKind::wait;
    event.operation = event_.operation;
    event.rank = event_.rank;
    event.world_size = event_.world_size;
    event.channel = event_.channel;
    event.sequence = event_.sequence;
    begin_trace(*tracer_, event);
    wait();
    end_trace(*tracer_, event);
  }

 private:
  /// They are this object's, which may have moved.
  void refer_to_splits() noexcept {
    event_.in_splits = in_splits_;
    event_.out_splits = out_splits_;
  }

  Tracer* tracer_;
  TraceEvent event_;
  std::vector<std::size_t> in_splits_;
  std::vector<std::size_t> out_splits_;
};

/// What a tracer is told of an operation beforehand.
inline TraceEvent trace_event(const Where& where, const MessageRecord& record, const Traffic& traffic) noexcept {
  TraceEvent event;
  event.operation = name(record.operation);
  event.type = record.type_name;
  event.reduction = record.reduction_name;
  event.algorithm = record.algorithm;
  event.count = record.count;
  event.in_bytes = traffic.in_bytes;
  event.out_bytes = traffic.out_bytes;
  event.in_splits = traffic.in_splits;
  event.out_splits = traffic.out_splits;
  event.rank = where.rank();
  event.world_size = where.world_size();
  event.root = record.root;
  return event;
}

}  // namespace allfold
