// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <allfold/base/config.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/memory/small_file.hpp>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string_view>

namespace allfold {

/// When a process started, in the kernel's clock ticks since boot: with its number it names one process, for
/// numbers are used again. 0 if there is no such process, or only its zombie.
inline std::uint64_t process_start_time(int process) noexcept {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/stat", process);
  char text[1024];
  std::string_view stat = detail::read_small_file(path, text);
  // Fields are counted from the last parenthesis: the second one, the program's name, may hold spaces and more.
  const std::size_t name_end = stat.rfind(')');
  if (name_end == stat.npos || name_end + 2 >= stat.size()) return 0;
  stat.remove_prefix(name_end + 2);  // field 3: the state
  if (stat.front() == 'Z' || stat.front() == 'X') return 0;
  for (int field = 3; field < 22; ++field) stat.remove_prefix(std::min(stat.find(' '), stat.size() - 1) + 1);
  std::uint64_t ticks = 0;
  std::from_chars(stat.data(), stat.data() + stat.size(), ticks);
  return ticks;
}

/// Watches whether a process of this host is alive. Holds a pidfd, so that no later process of the same number is
/// taken for it; where the kernel has none, it compares start times instead.
class PeerProcess {
 public:
  /// Watches nobody; not alive.
  PeerProcess() noexcept = default;

  /// `start_time` is what process_start_time() gives in that process; 0: unknown, the number alone is trusted.
  /// Never throws for a process that is gone: it is just not alive.
  PeerProcess(int process, std::uint64_t start_time) : start_time_(start_time), process_(process) {
    if (process <= 0) return;
    if (process == ::getpid()) {
      kind_ = Kind::own;
      return;
    }
    handle_.reset(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
    const int number = errno;
    // Looked at after the pidfd exists: from here on the number cannot come to mean another process unnoticed.
    const bool same = start_time == 0 || process_start_time(process) == start_time;
    if (!same || (!handle_ && number == ESRCH)) return;
    kind_ = handle_ ? Kind::handle : Kind::number;
  }

  int process() const noexcept { return process_; }

  /// Whether it still runs; one system call, none for this process itself. In doubt the answer is yes.
  bool alive() const noexcept {
    switch (kind_) {
      case Kind::none: return false;
      case Kind::own: return true;
      case Kind::handle: {
        pollfd ended = {handle_.get(), POLLIN, 0};
        return ::poll(&ended, 1, 0) <= 0;
      }
      case Kind::number: return number_is_alive();
    }
    return false;
  }

 private:
  enum class Kind : unsigned char { none, own, handle, number };

  ALLFOLD_COLD bool number_is_alive() const noexcept {
    if (::kill(process_, 0) != 0 && errno == ESRCH) return false;
    return start_time_ == 0 || process_start_time(process_) == start_time_;
  }

  UniqueFd handle_;
  std::uint64_t start_time_ = 0;
  int process_ = 0;
  Kind kind_ = Kind::none;
};

}  // namespace allfold
