// SPDX-License-Identifier: Apache-2.0

/// One half of a program whose other half is this file again: a function that lacks `inline` is defined twice then.

#include <cstdio>

#include <allfold/allfold.hpp>
#include <allfold/spawn.hpp>
#include <allfold/version.hpp>

const void* other_version();

#if defined(ALLFOLD_OTHER_HALF)

const void* other_version() { return &allfold::version_string; }

#else

int main() {
  if (other_version() != &allfold::version_string) {
    std::puts("FAILED: allfold::version_string is two objects");
    return 1;
  }
  std::printf("allfold %.*s, included in two translation units\n", static_cast<int>(allfold::version_string.size()),
              allfold::version_string.data());
}

#endif
