// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <allfold/base/deadline.hpp>
#include <allfold/base/environment.hpp>
#include <allfold/policy/categories.hpp>

namespace allfold {

/// A key-value store that all ranks of a job reach: where they meet before they have anything else in common.
/// Keys and values are any bytes. Every call ends by its deadline or throws TimeoutError. One object is used by
/// one thread at a time, unless its class says otherwise.
///
///   set(key, value, deadline)                         replaces the value
///   get(key, deadline) -> std::string                 waits until the key exists
///   wait(keys, deadline)                              waits until all of them exist
///   add(key, n, deadline) -> std::int64_t             adds to a decimal number (absent: 0), returns the sum
///   check(keys, deadline) -> bool                     whether all exist now
///   erase(key, deadline) -> bool                      whether it existed
///   compare_set(key, expected, desired, deadline) -> std::string
///       sets `desired` if the value is `expected` (an absent key equals the empty string); returns the value
///       that the key has afterwards (empty: absent)
template <class S>
concept store_policy =
    policy_of<S, store_tag> && requires(S& store, std::string_view key, std::string_view value,
                                        std::span<const std::string> keys, std::int64_t n, Deadline deadline) {
      store.set(key, value, deadline);
      { store.get(key, deadline) } -> std::same_as<std::string>;
      store.wait(keys, deadline);
      { store.add(key, n, deadline) } -> std::same_as<std::int64_t>;
      { store.check(keys, deadline) } -> std::same_as<bool>;
      { store.erase(key, deadline) } -> std::same_as<bool>;
      { store.compare_set(key, value, value, deadline) } -> std::same_as<std::string>;
    };

/// A store that a communicator can make by itself, from the environment alone.
template <class S>
concept connectable_store = store_policy<S> && requires(const Environment& environment, Deadline deadline) {
  { S::connect(environment, deadline) } -> std::same_as<S>;
};

}  // namespace allfold
