// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

namespace allfold {

/// The categories of policy. A policy class names its own: `using policy_category = store_tag;`.
struct store_tag {};
struct transport_tag {};
struct topology_tag {};
struct selector_tag {};
struct tracer_tag {};

/// Says of what category a class is.
template <class P, class Category>
concept policy_of = requires {
  typename P::policy_category;
  requires std::same_as<typename P::policy_category, Category>;
};

/// A class that names any of the five categories.
template <class P>
concept any_policy = policy_of<P, store_tag> || policy_of<P, transport_tag> || policy_of<P, topology_tag> ||
                     policy_of<P, selector_tag> || policy_of<P, tracer_tag>;

}  // namespace allfold
