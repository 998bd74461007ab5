// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include <allfold/base/concat.hpp>
#include <allfold/store/common.hpp>

namespace allfold::detail {

/// What a store in memory holds. Not thread safe: its owner guards it.
class KeyTable {
 public:
  /// Bytes of all keys and values.
  std::size_t bytes() const noexcept { return bytes_; }
  bool contains(std::string_view key) const { return values_.find(key) != values_.end(); }

  /// The value, or null.
  const std::string* find(std::string_view key) const {
    const auto at = values_.find(key);
    return at == values_.end() ? nullptr : &at->second;
  }

  void set(std::string_view key, std::string_view value) {
    std::string next(value);  // first, so that an allocation that fails leaves the table as it was
    auto at = values_.lower_bound(key);
    if (at == values_.end() || at->first != key) {
      at = values_.emplace_hint(at, std::string(key), std::string());
      bytes_ += key.size();
    }
    bytes_ += next.size() - at->second.size();
    at->second.swap(next);
  }

  bool erase(std::string_view key) {
    const auto at = values_.find(key);
    if (at == values_.end()) return false;
    bytes_ -= at->first.size() + at->second.size();
    values_.erase(at);
    return true;
  }

  /// Leaves the table as it was unless it answers ok.
  Sum add(std::string_view key, std::int64_t n, std::int64_t& sum) {
    const std::string* value = find(key);
    const Sum outcome = add_decimal(value == nullptr ? std::string_view("0") : std::string_view(*value), n, sum);
    if (outcome == Sum::ok) set(key, concat({static_cast<long long>(sum)}));
    return outcome;
  }

  /// Returns whether it set `desired`.
  bool compare_set(std::string_view key, std::string_view expected, std::string_view desired) {
    const std::string* value = find(key);
    if ((value == nullptr ? std::string_view() : std::string_view(*value)) != expected) return false;
    set(key, desired);
    return true;
  }

 private:
  struct Less {
    using is_transparent = void;
    bool operator()(std::string_view a, std::string_view b) const noexcept { return a < b; }
  };

  std::map<std::string, std::string, Less> values_;
  std::size_t bytes_ = 0;
};

}  // namespace allfold::detail
