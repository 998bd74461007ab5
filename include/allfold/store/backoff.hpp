// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <time.h>

#include <allfold/base/deadline.hpp>

namespace allfold::detail {

/// Sleeps between looks at something that does not call back: twice as long each time, not past the deadline.
class Backoff {
 public:
  Backoff(Duration first, Duration longest) noexcept : next_(first), longest_(longest) {}

  void sleep(Deadline deadline) {
    const Duration left = deadline.remaining();
    const Duration nap = left < next_ ? left : next_;
    next_ = next_ * 2 < longest_ ? next_ * 2 : longest_;
    const timespec time = {static_cast<time_t>(nap.count() / 1000000000), static_cast<long>(nap.count() % 1000000000)};
    ::nanosleep(&time, nullptr);
  }

 private:
  Duration next_;
  Duration longest_;
};

}  // namespace allfold::detail
