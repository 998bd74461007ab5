// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <limits>

namespace allfold {

using Clock = std::chrono::steady_clock;
using Duration = std::chrono::nanoseconds;

/// The instant by which a wait must end. Every wait of the library takes one: no wait is unbounded.
class Deadline {
 public:
  /// `timeout` from now; a timeout too long to add ends at the clock's last instant.
  static Deadline after(Duration timeout) { return after(timeout, Clock::now()); }
  static Deadline after(Duration timeout, Clock::time_point now) {
    const bool overflows = timeout > Clock::time_point::max() - now;
    return Deadline(overflows ? Clock::time_point::max() : now + timeout);
  }

  constexpr explicit Deadline(Clock::time_point at) noexcept : at_(at) {}

  Clock::time_point at() const noexcept { return at_; }
  bool expired() const { return Clock::now() >= at_; }

  /// What is left, never negative.
  Duration remaining() const {
    const Clock::time_point now = Clock::now();
    return now >= at_ ? Duration::zero() : Duration(at_ - now);
  }

  /// What is left for poll(2): milliseconds, rounded up so that a wait does not end early, within an int.
  int remaining_ms() const {
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(remaining()).count();
    return ms > std::numeric_limits<int>::max() ? std::numeric_limits<int>::max() : static_cast<int>(ms);
  }

  /// The earlier of two.
  Deadline sooner(Deadline other) const noexcept { return at_ < other.at_ ? *this : other; }

 private:
  Clock::time_point at_;
};

/// Whole milliseconds of `d`, for messages.
constexpr long long milliseconds(Duration d) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(d).count();
}

}  // namespace allfold
