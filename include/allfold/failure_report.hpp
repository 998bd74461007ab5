// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <allfold/base/error.hpp>
#include <allfold/memory/call_record.hpp>
#include <allfold/memory/control_block.hpp>
#include <allfold/memory/signal_pad.hpp>

namespace allfold {

/// What is known of a failure when it is reported.
struct FailureReport {
  Failure failure;
  CallRecord by_call;      ///< of the rank that noticed
  CallRecord source_call;  ///< of the rank to blame, where it called something else
  bool earlier = false;    ///< an earlier call failed, and this one did not start
};

/// Throws the failure as this rank sees it.
[[noreturn]] ALLFOLD_COLD inline void throw_failure(const Where& where, const FailureReport& report) {
  const Failure& f = report.failure;
  const int source = f.source;
  const bool mine = source == where.rank();
  const std::string text = report.by_call.text();
  const std::string call =
      report.by_call.operation == Operation::signal
          ? text
          : concat({"call ", f.sequence, " of channel ", static_cast<unsigned>(f.channel), " (", text, ")"});
  const std::string noticed = f.by == where.rank() ? std::string() : concat({", noticed by rank ", unsigned{f.by}});
  const std::string head = report.earlier ? "the communicator ended earlier: " : "";
  const char* const end = "; this communicator has ended, create it again to go on";
  switch (f.code) {
    case ErrorCode::mismatch: {
      const std::string theirs = report.source_call.text();
      const char* how = "";  // they differ in what the text does not tell
      if (theirs == text) {
        how = report.source_call.tag() == report.by_call.tag() ? " in a kernel of its own, or there with another grid"
                                                               : " with another operator or type of that name";
      }
      throw MismatchError(
          where, mine ? f.by : source,
          {head, "ranks disagree in call ", f.sequence, " of channel ", static_cast<unsigned>(f.channel), "; rank ",
           unsigned{f.by}, " calls ", text, ", but rank ", source, " calls ", theirs, how,
           "; every rank must make the same calls in the same order", end});
    }
    case ErrorCode::peer:
      throw PeerError(where, source,
                      {head, f.departed ? "rank " : "the process of rank ", source,
                       f.departed ? " destroyed its communicator" : " is gone", " and did not arrive at ", call,
                       noticed, "; expected it to take part", end});
    case ErrorCode::usage:
      if (report.by_call.operation != Operation::signal) {
        throw UsageError(where, {head, "a kernel of rank ", unsigned{f.by}, " makes an ", text,
                                 " with another grid than that can have; expected at most DeviceAllReduce::most_blocks "
                                 "blocks of 32 to 512 threads, a multiple of 32, in one dimension",
                                 end});
      }
      throw UsageError(where, {head, "a kernel of rank ", unsigned{f.by}, " asked for ", text, " with ",
                               source == Failure::no_rank ? "a rank that there is not" : concat({"rank ", source}),
                               "; expected slots 0 to ", signal_slots - 1, " and ranks of the world", end});
    default:
      throw TimeoutError(where, source,
                         {head, mine ? "this rank came too late for " : "", mine ? "" : "rank ",
                          mine ? std::string() : concat({source, " did not arrive in time at "}), call, noticed,
                          "; try a longer timeout, or see what keeps rank ", source, end});
  }
}

}  // namespace allfold
