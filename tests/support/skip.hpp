// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace allfold_test {

/// Records that the running case cannot run here, and why; defined in main.cpp. The program then exits with 77
/// (unless a case failed), which ctest reports as skipped, never as passed.
void record_skip(const char* reason);

}  // namespace allfold_test

/// Leaves the running TEST_CASE as one that cannot run on this machine; `reason` is a string literal.
#define SKIP_CASE(reason)                \
  do {                                   \
    ::allfold_test::record_skip(reason); \
    return;                              \
  } while (false)
