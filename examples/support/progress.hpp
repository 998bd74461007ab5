// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <string>

#include <unistd.h>

namespace digits {

/// A bar that fills on a terminal; elsewhere a line at the quarters.
class Progress {
 public:
  Progress(std::string title, int steps) : title_(std::move(title)), steps_(steps) {}

  void step(int done, double loss) const {
    constexpr int width = 30;
    const bool last = done == steps_;
    if (terminal_) {
      const std::string bar(static_cast<std::size_t>(width * done / steps_), '#');
      std::printf("\r%-16s [%-*s] epoch %d/%d  loss %.4f%s", title_.c_str(), width, bar.c_str(), done, steps_, loss,
                  last ? "\n" : "");
    } else if (last || 4 * done / steps_ > 4 * (done - 1) / steps_) {
      std::printf("%-16s epoch %d/%d  loss %.4f\n", title_.c_str(), done, steps_, loss);
    }
    std::fflush(stdout);
  }

 private:
  std::string title_;
  int steps_;
  bool terminal_ = ::isatty(STDOUT_FILENO) == 1;
};

}  // namespace digits
