// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string_view>

#include <fcntl.h>
#include <unistd.h>

#include <allfold/base/unique_fd.hpp>

namespace allfold::detail {

/// Reads a small file of /proc into `text`, without the newline at its end; empty if it cannot be read.
template <std::size_t Size>
std::string_view read_small_file(const char* path, char (&text)[Size]) noexcept {
  const UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
  ssize_t got = fd ? ::read(fd.get(), text, Size) : 0;
  while (got > 0 && text[got - 1] == '\n') --got;
  return {text, got > 0 ? static_cast<std::size_t>(got) : 0};
}

}  // namespace allfold::detail
