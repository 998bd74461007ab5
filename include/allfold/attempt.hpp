// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <utility>

#include <allfold/base/error.hpp>

namespace allfold {

/// What try_create gives: a communicator, or why there is none.
template <class C>
class Attempt {
 public:
  explicit Attempt(C&& communicator) : value_(std::move(communicator)) {}
  explicit Attempt(const Error& error) : reason_(error.what()), code_(error.code()) {}

  explicit operator bool() const noexcept { return value_.has_value(); }
  /// The communicator; only if there is one.
  C& value() { return *value_; }
  C* operator->() { return &*value_; }
  /// The message of the error that `create` would have thrown; empty if there is a communicator.
  const std::string& reason() const noexcept { return reason_; }
  ErrorCode code() const noexcept { return code_; }

 private:
  std::optional<C> value_;
  std::string reason_;
  ErrorCode code_{};
};

}  // namespace allfold
