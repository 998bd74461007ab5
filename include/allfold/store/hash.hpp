// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

#include <allfold/policy/store.hpp>
#include <allfold/store/common.hpp>
#include <allfold/store/key_table.hpp>

namespace allfold {

/// A store for ranks that are threads of one process. A copy is another handle to the same keys:
/// make one, then copy or capture it into each rank.
/// Thread safe, copies and one object alike. Moved from, it may only be assigned or destroyed.
class HashStore {
 public:
  using policy_category = store_tag;

  HashStore() : state_(std::make_shared<State>()) {}

  /// Replaces the value of `key`.
  void set(std::string_view key, std::string_view value, Deadline = default_store_deadline()) {
    const std::lock_guard lock(state_->mutex);
    state_->table.set(key, value);
    state_->changed.notify_all();
  }

  /// The value of `key`, once it exists.
  /// @throws TimeoutError if it does not by the deadline.
  std::string get(std::string_view key, Deadline deadline = default_store_deadline()) {
    std::unique_lock lock(state_->mutex);
    return *await("HashStore::get", key, deadline, deadline.remaining(), lock);
  }

  /// Waits until all `keys` exist.
  /// @throws TimeoutError if they do not by the deadline; it names one that is missing.
  void wait(std::span<const std::string> keys, Deadline deadline = default_store_deadline()) {
    const Duration timeout = deadline.remaining();
    std::unique_lock lock(state_->mutex);
    for (bool again = true; again;) {  // a key seen first may have gone while a later one was awaited
      for (const std::string& key : keys) await("HashStore::wait", key, deadline, timeout, lock);
      again = !all_exist(keys);
    }
  }

  /// Adds `n` to the decimal number at `key` (absent: 0) and returns the sum.
  /// @throws UsageError if the value is no number, or the sum exceeds 64 bits.
  std::int64_t add(std::string_view key, std::int64_t n, Deadline = default_store_deadline()) {
    const std::lock_guard lock(state_->mutex);
    std::int64_t sum = 0;
    const detail::Addition outcome = state_->table.add(key, n, sum);
    if (outcome != detail::Addition::ok) {
      detail::throw_bad_sum("HashStore::add", outcome, key, n, *state_->table.find(key));
    }
    state_->changed.notify_all();
    return sum;
  }

  /// Whether all `keys` exist now.
  bool check(std::span<const std::string> keys, Deadline = default_store_deadline()) {
    const std::lock_guard lock(state_->mutex);
    return all_exist(keys);
  }

  /// Removes `key`; returns whether it existed.
  bool erase(std::string_view key, Deadline = default_store_deadline()) {
    const std::lock_guard lock(state_->mutex);
    return state_->table.erase(key);
  }

  /// Sets `desired` if the value is `expected` (an absent key equals the empty string); returns the value afterwards
  /// (empty: absent).
  std::string compare_set(std::string_view key, std::string_view expected, std::string_view desired,
                          Deadline = default_store_deadline()) {
    const std::lock_guard lock(state_->mutex);
    if (state_->table.compare_set(key, expected, desired)) state_->changed.notify_all();
    const std::string* value = state_->table.find(key);
    return value == nullptr ? std::string() : *value;
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    detail::KeyTable table;
  };

  bool all_exist(std::span<const std::string> keys) const {
    for (const std::string& key : keys) {
      if (!state_->table.contains(key)) return false;
    }
    return true;
  }

  const std::string* await(const char* operation, std::string_view key, Deadline deadline, Duration timeout,
                           std::unique_lock<std::mutex>& lock) {
    for (;;) {
      if (const std::string* value = state_->table.find(key)) return value;
      if (deadline.expired()) detail::throw_key_missing(operation, key, timeout);
      state_->changed.wait_until(lock, deadline.at());
    }
  }

  std::shared_ptr<State> state_;
};
static_assert(store_policy<HashStore>);

}  // namespace allfold
