// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>

#include <dirent.h>

namespace allfold_test {

/// What the library has left in /dev/shm. Compared before and after, it must be the same.
inline std::set<std::string> names_in_dev_shm() {
  std::set<std::string> names;
  DIR* const directory = ::opendir("/dev/shm");
  if (directory == nullptr) return names;
  while (const dirent* const entry = ::readdir(directory)) {
    const std::string name = entry->d_name;
    if (name.find("allfold") != std::string::npos) names.insert(name);
  }
  ::closedir(directory);
  return names;
}

}  // namespace allfold_test
