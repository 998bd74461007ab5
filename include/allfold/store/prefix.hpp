// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <allfold/policy/store.hpp>
#include <allfold/store/common.hpp>

namespace allfold {

/// Another store with `prefix/` before each key, so that two users of one store do not meet each other's keys.
/// `PrefixStore(store, "a")` refers to an lvalue `store`, which must outlive it, and owns an rvalue; spelt out,
/// PrefixStore<S&> refers and PrefixStore<S> owns. As thread safe as the other store. Errors are the other store's.
template <class S>
class PrefixStore {
  static_assert(store_policy<std::remove_reference_t<S>>,
                "allfold: PrefixStore<S> wraps a store: S must satisfy store_policy (policy/store.hpp)");

 public:
  using policy_category = store_tag;

  PrefixStore(S store, std::string prefix) : store_(std::forward<S>(store)), prefix_(std::move(prefix)) {
    prefix_ += '/';
  }

  void set(std::string_view key, std::string_view value, Deadline deadline = default_store_deadline()) {
    store_.set(full(key), value, deadline);
  }
  std::string get(std::string_view key, Deadline deadline = default_store_deadline()) {
    return store_.get(full(key), deadline);
  }
  void wait(std::span<const std::string> keys, Deadline deadline = default_store_deadline()) {
    store_.wait(full(keys), deadline);
  }
  std::int64_t add(std::string_view key, std::int64_t n, Deadline deadline = default_store_deadline()) {
    return store_.add(full(key), n, deadline);
  }
  bool check(std::span<const std::string> keys, Deadline deadline = default_store_deadline()) {
    return store_.check(full(keys), deadline);
  }
  bool erase(std::string_view key, Deadline deadline = default_store_deadline()) {
    return store_.erase(full(key), deadline);
  }
  std::string compare_set(std::string_view key, std::string_view expected, std::string_view desired,
                          Deadline deadline = default_store_deadline()) {
    return store_.compare_set(full(key), expected, desired, deadline);
  }

  /// The other store.
  std::remove_reference_t<S>& underlying() noexcept { return store_; }

 private:
  std::string full(std::string_view key) const {
    std::string out = prefix_;
    out += key;
    return out;
  }
  std::vector<std::string> full(std::span<const std::string> keys) const {
    std::vector<std::string> out;
    out.reserve(keys.size());
    for (const std::string& key : keys) out.push_back(full(std::string_view(key)));
    return out;
  }

  S store_;
  std::string prefix_;
};

template <class S>
PrefixStore(S&&, std::string) -> PrefixStore<S>;

}  // namespace allfold
