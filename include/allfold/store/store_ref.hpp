// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include <allfold/policy/store.hpp>
#include <allfold/store/common.hpp>

namespace allfold {

/// A reference to any store that outlives it. It is a store itself, and lets code that uses one stay out of templates.
class StoreRef {
 public:
  using policy_category = store_tag;

  template <class S>
    requires(!std::is_same_v<S, StoreRef> && !std::is_const_v<S> && store_policy<S>)
  StoreRef(S& store) noexcept : store_(&store), calls_(&calls_of<S>) {}

  void set(std::string_view key, std::string_view value, Deadline deadline = default_store_deadline()) {
    calls_->set(store_, key, value, deadline);
  }
  std::string get(std::string_view key, Deadline deadline = default_store_deadline()) {
    return calls_->get(store_, key, deadline);
  }
  void wait(std::span<const std::string> keys, Deadline deadline = default_store_deadline()) {
    calls_->wait(store_, keys, deadline);
  }
  std::int64_t add(std::string_view key, std::int64_t n, Deadline deadline = default_store_deadline()) {
    return calls_->add(store_, key, n, deadline);
  }
  bool check(std::span<const std::string> keys, Deadline deadline = default_store_deadline()) {
    return calls_->check(store_, keys, deadline);
  }
  bool erase(std::string_view key, Deadline deadline = default_store_deadline()) {
    return calls_->erase(store_, key, deadline);
  }
  std::string compare_set(std::string_view key, std::string_view expected, std::string_view desired,
                          Deadline deadline = default_store_deadline()) {
    return calls_->compare_set(store_, key, expected, desired, deadline);
  }

 private:
  using Text = std::string_view;
  using Keys = std::span<const std::string>;
  struct Calls {
    void (*set)(void*, Text, Text, Deadline);
    std::string (*get)(void*, Text, Deadline);
    void (*wait)(void*, Keys, Deadline);
    std::int64_t (*add)(void*, Text, std::int64_t, Deadline);
    bool (*check)(void*, Keys, Deadline);
    bool (*erase)(void*, Text, Deadline);
    std::string (*compare_set)(void*, Text, Text, Text, Deadline);
  };

  template <class S>
  static constexpr Calls calls_of = {
      [](void* s, Text key, Text value, Deadline d) { static_cast<S*>(s)->set(key, value, d); },
      [](void* s, Text key, Deadline d) { return static_cast<S*>(s)->get(key, d); },
      [](void* s, Keys keys, Deadline d) { static_cast<S*>(s)->wait(keys, d); },
      [](void* s, Text key, std::int64_t n, Deadline d) { return static_cast<S*>(s)->add(key, n, d); },
      [](void* s, Keys keys, Deadline d) { return static_cast<S*>(s)->check(keys, d); },
      [](void* s, Text key, Deadline d) { return static_cast<S*>(s)->erase(key, d); },
      [](void* s, Text key, Text expected, Text desired, Deadline d) {
        return static_cast<S*>(s)->compare_set(key, expected, desired, d);
      }};

  void* store_;
  const Calls* calls_;
};

}  // namespace allfold
