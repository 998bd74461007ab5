// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <unistd.h>

#include <allfold/base/config.hpp>
#include <allfold/base/unique_fd.hpp>

namespace allfold::detail {

/// Lines on their way into a file that nobody else writes. What the file does not take is counted and dropped, and the
/// file ends with a whole line again. Used by one thread at a time.
class JsonFile {
 public:
  /// Lines are kept until `buffer_bytes` have come together.
  JsonFile(UniqueFd file, std::size_t buffer_bytes) : file_(std::move(file)), buffer_bytes_(buffer_bytes) {}

  /// Takes a line, newline and all.
  void add(std::string_view line) {
    waiting_ += line;
    if (waiting_.size() >= buffer_bytes_) flush();
  }

  /// A line that could not even be written down.
  void lose() noexcept { ++lost_; }

  /// Writes what waits. Returns 0, or the errno of what kept some of it from being written.
  int flush() noexcept {
    std::string_view rest = waiting_;
    int error = 0;
    while (!rest.empty() && error == 0) {
      const ssize_t wrote = ::write(file_.get(), rest.data(), rest.size());
      if (wrote > 0) {
        rest.remove_prefix(static_cast<std::size_t>(wrote));
      } else if (wrote == 0) {
        error = EIO;
      } else if (errno != EINTR) {
        error = errno;
      }
    }
    const std::size_t wrote_bytes = waiting_.size() - rest.size();
    const std::size_t whole = std::string_view(waiting_).substr(0, wrote_bytes).rfind('\n') + 1;
    file_bytes_ += static_cast<off_t>(whole);
    if (error != 0) drop(std::string_view(waiting_).substr(whole));
    waiting_.clear();
    return error;
  }

  /// How many lines are lost so far.
  std::uint64_t lost() const noexcept { return lost_; }

 private:
  ALLFOLD_COLD void drop(std::string_view lines) noexcept {
    lost_ += static_cast<std::uint64_t>(std::count(lines.begin(), lines.end(), '\n'));
    // Where this fails, as on a device, the file ends with half a line, and there is nothing more to do.
    if (::ftruncate(file_.get(), file_bytes_) == 0) static_cast<void>(::lseek(file_.get(), file_bytes_, SEEK_SET));
  }

  UniqueFd file_;
  std::string waiting_;
  std::size_t buffer_bytes_;
  off_t file_bytes_ = 0;
  std::uint64_t lost_ = 0;
};

}  // namespace allfold::detail
