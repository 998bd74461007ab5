// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace allfold {

/// The version of this library. CMakeLists.txt and the packages read these three lines: there is no second source.
inline constexpr int version_major = 0;
inline constexpr int version_minor = 1;
inline constexpr int version_patch = 0;

/// The version as one number, 10000 * major + 100 * minor + patch, for comparisons.
inline constexpr int version_number = 10000 * version_major + 100 * version_minor + version_patch;

namespace detail {

struct VersionText {
  char text[12] = {};
  unsigned length = 0;

  constexpr VersionText() {
    append(version_major);
    text[length++] = '.';
    append(version_minor);
    text[length++] = '.';
    append(version_patch);
  }

  constexpr void append(int part) {
    if (part >= 10) append(part / 10);
    text[length++] = static_cast<char>('0' + part % 10);
  }
};

inline constexpr VersionText version_text{};

}  // namespace detail

/// The version as text, `major.minor.patch`.
inline constexpr std::string_view version_string{detail::version_text.text, detail::version_text.length};

}  // namespace allfold
