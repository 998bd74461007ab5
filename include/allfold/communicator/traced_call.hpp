// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/communicator/message_arguments.hpp>
#include <allfold/launch/message_operation.hpp>
#include <allfold/memory/message_record.hpp>
#include <allfold/policy/tracer.hpp>

namespace allfold {

/// Tells a tracer of one operation over messages, when it ends and when the caller has waited for it.
template <tracer_policy Tracer>
class TracedCall {
 public:
  TracedCall(Tracer& tracer, const MessageRecord& record, const Traffic& traffic, const Where& where, int channel,
             std::uint32_t sequence, int, int)
      : tracer_(&tracer) {
    event_.operation = name(record.operation);
    event_.type = record.type_name;
    event_.reduction = record.reduction_name;
    event_.count = record.count;
    event_.bytes = traffic.in_bytes;
    event_.rank = where.rank();
    event_.world_size = where.world_size();
    event_.channel = channel;
    event_.sequence = sequence;
    event_.begin = Clock::now();
  }

  void ended(const MessageOperation& operation) noexcept {
    event_.end = Clock::now();
    event_.failed = operation.error() != nullptr;
    tracer_->record(event_);
  }
  void waited(Clock::time_point, Clock::time_point) noexcept {}

 private:
  Tracer* tracer_;
  TraceEvent event_;
};

}  // namespace allfold
