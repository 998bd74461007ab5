// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace allfold {

/// Where in a program something was said. Unlike std::source_location it exists under every compiler that
/// allfold supports (clang 14 has no builtin for the standard one).
struct SourceLocation {
  const char* file = "";
  const char* function = "";
  int line = 0;

  /// The place of the call, when it stands as a default argument.
  static constexpr SourceLocation current(const char* file = __builtin_FILE(),
                                          const char* function = __builtin_FUNCTION(),
                                          int line = __builtin_LINE()) noexcept {
    return {file, function, line};
  }
};

}  // namespace allfold
