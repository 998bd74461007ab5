// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>

#include <allfold/base/deadline.hpp>
#include <allfold/base/environment.hpp>
#include <allfold/policy/store.hpp>

namespace allfold {

/// A communicator's store: its own, or one that outlives it.
template <store_policy Store>
struct StoreHolder {
  std::unique_ptr<Store> own;
  Store* used = nullptr;
};

namespace detail {

/// The argument of type Wanted: copied, or moved if it cannot be copied; a default one if there is none.
template <class Wanted>
Wanted take_or_default() {
  static_assert(std::default_initializable<Wanted>,
                "allfold: this policy has no default constructor; pass an object of it to create");
  return Wanted();
}
template <class Wanted, class First, class... Rest>
Wanted take_or_default(First& first, Rest&... rest) {
  if constexpr (!std::is_same_v<std::remove_cv_t<First>, Wanted>) {
    return take_or_default<Wanted>(rest...);
  } else if constexpr (std::copy_constructible<Wanted>) {
    return first;
  } else {
    return std::move(first);
  }
}

/// The store among the arguments, by reference if it is an lvalue; one that the environment names if there is none.
template <store_policy Store>
StoreHolder<Store> take_store(const Environment& environment, Deadline deadline) {
  static_assert(connectable_store<Store>,
                "allfold: this store has no `static Store connect(const Environment&, Deadline)`; pass an object of it "
                "to create");
  StoreHolder<Store> holder{std::make_unique<Store>(Store::connect(environment, deadline)), nullptr};
  holder.used = holder.own.get();
  return holder;
}
template <store_policy Store, class First, class... Rest>
StoreHolder<Store> take_store(const Environment& environment, Deadline deadline, First&& first, Rest&&... rest) {
  if constexpr (std::is_same_v<First, Store&>) {
    return {nullptr, &first};
  } else if constexpr (std::is_same_v<First, Store>) {
    StoreHolder<Store> holder{std::make_unique<Store>(std::forward<First>(first)), nullptr};
    holder.used = holder.own.get();
    return holder;
  } else {
    return take_store<Store>(environment, deadline, std::forward<Rest>(rest)...);
  }
}

}  // namespace detail
}  // namespace allfold
