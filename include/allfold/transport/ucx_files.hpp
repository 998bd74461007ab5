// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>

#include <dirent.h>
#include <sys/resource.h>

#include <allfold/base/error.hpp>

namespace allfold::detail {

/// How many descriptors this process has open; 0 where that cannot be told.
ALLFOLD_COLD inline std::size_t open_files() noexcept {
  DIR* const folder = ::opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  std::size_t entries = 0;
  while (::readdir(folder) != nullptr) ++entries;
  ::closedir(folder);
  return entries > 3 ? entries - 3 : 0;  // ".", ".." and the folder's own
}

/// Sees while endpoints are made whether there are descriptors enough for all of them: UCX 1.13 ends the process where
/// there are not. Of the ranks of one process each counts its own.
class UcxFiles {
 public:
  /// `alone`: how many were open before any peer could connect.
  /// @throws UsageError if there is none left for a first connection
  UcxFiles(const Where& where, std::size_t alone) : where_(where), alone_(alone) {
    if (where.world_size() > 1) check_failed();
  }

  /// After each endpoint to a peer.
  /// @throws UsageError if there are not
  ALLFOLD_COLD void check() {
    if (looks_ == most_looks) return;
    const std::size_t open = open_files();
    // Those of peers that connect meanwhile are among them: the least of several looks has none.
    taken_ = std::min(taken_, open > before_ ? open - before_ : 0);
    before_ = open;
    if (++looks_ != std::min(most_looks, where_.world_size() - 1)) return;
    if (taken_ > 0 && alone_ + of_peers(taken_) + spare > limit()) refuse(taken_);
  }

  /// After an endpoint that could not be made.
  /// @throws UsageError if that is because of descriptors
  ALLFOLD_COLD void check_failed() const {
    if (open_files() + spare > limit()) refuse(1);
  }

 private:
  static constexpr int most_looks = 8;
  static constexpr std::size_t spare = 8;

  static std::size_t limit() noexcept {
    rlimit limit{};
    return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : static_cast<std::size_t>(-1);
  }
  /// A peer's own connection takes as many again, and its process is watched by one more.
  std::size_t of_peers(std::size_t taken) const noexcept {
    return static_cast<std::size_t>(where_.world_size() - 1) * (2 * taken + 1);
  }

  [[noreturn]] void refuse(std::size_t taken) const {
    throw UsageError(where_, {"UCX's connections to ", where_.world_size() - 1, " ranks take ", of_peers(taken),
                              " files; expected a limit of ", alone_ + of_peers(taken) + spare,
                              " open files at least, got ", limit(), "; raise it, with ulimit -n"});
  }

  Where where_;
  std::size_t alone_;
  std::size_t before_ = open_files();
  std::size_t taken_ = static_cast<std::size_t>(-1);
  int looks_ = 0;
};

}  // namespace allfold::detail
