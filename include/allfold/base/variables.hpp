// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include <allfold/base/error.hpp>

namespace allfold {

/// An environment variable's text; nothing if it is unset or empty.
ALLFOLD_COLD inline std::optional<std::string> variable(const char* name) {
  const char* const text = std::getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  return std::string(text);
}

/// An environment variable that holds a whole number from `low` to `high`; nothing if it is unset or empty.
/// @throws UsageError if it holds anything else.
ALLFOLD_COLD inline std::optional<long long> integer_variable(const char* name, long long low, long long high) {
  const std::optional<std::string> text = variable(name);
  if (!text) return std::nullopt;
  long long number = 0;
  const char* const end = text->data() + text->size();
  const auto [stop, error] = std::from_chars(text->data(), end, number);
  if (error != std::errc() || stop != end || number < low || number > high) {
    throw UsageError("environment", {name, " is \"", *text, "\"; expected a whole number from ", low, " to ", high});
  }
  return number;
}

/// An environment variable that holds one of `words`, as its index; nothing if it is unset or empty.
/// @throws UsageError if it holds anything else.
ALLFOLD_COLD inline std::optional<std::size_t> choice_variable(const char* name,
                                                               std::initializer_list<std::string_view> words) {
  const std::optional<std::string> text = variable(name);
  if (!text) return std::nullopt;
  std::size_t index = 0;
  std::string expected;
  for (const std::string_view word : words) {
    if (word == *text) return index;
    if (index > 0) expected.append(index + 1 == words.size() ? " or " : ", ");
    expected.append(word);
    ++index;
  }
  throw UsageError("environment", {name, " is \"", *text, "\"; expected ", expected});
}

/// An environment variable that holds 0 or 1 (or false or true); nothing if it is unset or empty.
/// @throws UsageError if it holds anything else.
ALLFOLD_COLD inline std::optional<bool> boolean_variable(const char* name) {
  const std::optional<std::size_t> index = choice_variable(name, {"0", "1", "false", "true"});
  if (!index) return std::nullopt;
  return *index % 2 == 1;
}

}  // namespace allfold
