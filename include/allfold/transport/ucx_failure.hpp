// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

#include <allfold/base/concat.hpp>
#include <allfold/base/config.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>

namespace allfold {

/// Why ranks no longer go on together.
struct UcxFailure {
  ErrorCode code = ErrorCode::peer;  ///< peer, timeout or mismatch
  int source = -1;                   ///< the rank to blame
  bool departed = false;             ///< it has left, without an accident
};

namespace detail {

/// A message of another size than its receiver expected, in bytes. UCX 1.13 may say of one that was cut how much of it
/// fits.
struct WrongSize {
  int peer = -1;  ///< -1: none
  std::size_t came = 0;
  std::size_t expected = 0;
};

/// Throws what a call is told of a failure. `earlier`: the call was about to start.
[[noreturn]] ALLFOLD_COLD inline void throw_ucx_failure(const Where& where, const UcxFailure& failure,
                                                        const WrongSize& size, Duration timeout, bool earlier) {
  const int source = failure.source;
  const char* const head = earlier ? "the communicator ended earlier: " : "";
  const char* const end = "; this communicator has ended, create it again to go on";
  const std::string limit = earlier ? std::string() : concat({milliseconds(timeout), " ms"});
  switch (failure.code) {
    case ErrorCode::timeout:
      if (source < 0) {
        throw TimeoutError(where, source,
                           {head, "no rank sent the message", earlier ? " in time" : "; expected one within ", limit,
                            "; see what the other ranks do, or try a longer timeout", end});
      }
      throw TimeoutError(where, source,
                         {head, "rank ", source, " did not arrive", earlier ? " in time" : "; expected it within ",
                          limit, "; see what it does, or try a longer timeout", end});
    case ErrorCode::mismatch:
      if (source >= 0 && size.peer == source) {
        throw MismatchError(where, source,
                            {head, "rank ", source, " sent a message of ", size.came, " bytes; expected ",
                             size.expected, "; give both ranks the same type and count", end});
      }
      throw MismatchError(
          where, source,
          {head, "rank ", source, " called something else; expected the same operation, root, type, ",
           "counts and operator on every rank; set MessageOptions::check_calls to see both sides", end});
    default:
      if (source == where.rank() && failure.departed) {
        throw UsageError(where, {"the communicator was destroyed before the call was over; expected it to live until "
                                 "then; wait for the Work first"});
      }
      throw PeerError(where, source,
                      {head, "rank ", source, failure.departed ? " has left" : " is gone",
                       "; expected it to stay until the call is over; see how it ended", end});
  }
}

}  // namespace detail

}  // namespace allfold
