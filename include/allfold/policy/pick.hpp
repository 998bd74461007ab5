// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <allfold/policy/categories.hpp>
#include <allfold/policy/selector.hpp>
#include <allfold/policy/store.hpp>
#include <allfold/policy/topology.hpp>
#include <allfold/policy/tracer.hpp>
#include <allfold/policy/transport.hpp>

namespace allfold {

/// Stops the compilation with one sentence if `Offender` cannot stand among a communicator's policies. The compiler
/// names the offender where it says what it instantiates.
template <class Offender>
struct CheckPolicy {
  static_assert(
      any_policy<Offender>,
      "allfold: Communicator takes a store, a transport, a topology, a selector and a tracer, and this type is "
      "none of them; if it is a policy of yours, write `using policy_category = allfold::store_tag;` (or "
      "transport_tag, topology_tag, selector_tag, tracer_tag) in it");
  static_assert(!policy_of<Offender, store_tag> || store_policy<Offender>,
                "allfold: this store lacks a member that allfold::store_policy asks for; give it set, get, wait, add, "
                "check, erase and compare_set as policy/store.hpp lists them");
  static_assert(!policy_of<Offender, transport_tag> || transport_policy<Offender>,
                "allfold: this transport lacks a member that allfold::transport_policy asks for; give it those that "
                "policy/transport.hpp lists: of symmetric_transport_policy if it shares memory, of "
                "message_transport_policy if it moves messages");
  static_assert(!policy_of<Offender, topology_tag> || topology_policy<Offender>,
                "allfold: this topology lacks a member that allfold::topology_policy asks for; give it "
                "`LinkMatrix links(std::span<const Identity>)`");
  static_assert(!policy_of<Offender, selector_tag> || selector_policy<Offender>,
                "allfold: this selector lacks a member that allfold::selector_policy asks for; give it `Algorithm "
                "select(const SelectionQuery&) const` and `static constexpr AlgorithmSet candidates`; over messages, "
                "the functions that allfold::message_selector_policy lists");
  static_assert(!policy_of<Offender, tracer_tag> || tracer_policy<Offender>,
                "allfold: this tracer lacks a member that allfold::tracer_policy asks for; give it `void record(const "
                "TraceEvent&)` and `static constexpr bool enabled`");
  static constexpr bool ok = true;
};

template <class Category, class... Ps>
inline constexpr int policies_of = (0 + ... + (policy_of<Ps, Category> ? 1 : 0));

/// A class that meets the concept of the category it names.
template <class P>
concept valid_policy =
    store_policy<P> || transport_policy<P> || topology_policy<P> || selector_policy<P> || tracer_policy<P>;

/// A pack of such classes, no two of one category.
template <class... Ps>
concept valid_pack = (valid_policy<Ps> && ...) && policies_of<store_tag, Ps...> <= 1 &&
                     policies_of<transport_tag, Ps...> <= 1 && policies_of<topology_tag, Ps...> <= 1 &&
                     policies_of<selector_tag, Ps...> <= 1 && policies_of<tracer_tag, Ps...> <= 1;

/// The same for a pack of policies as a whole.
template <class... Ps>
struct CheckPack {
  static_assert((CheckPolicy<Ps>::ok && ...));
  static_assert(!(valid_policy<Ps> && ...) || valid_pack<Ps...>,
                "allfold: Communicator takes at most one policy of each category, and this pack has two of one; remove "
                "one of them");
  static constexpr bool ok = true;
};

namespace detail {

template <class Category, class Default, class... Ps>
struct Pick {
  using type = Default;
};
template <class Category, class Default, class P, class... Ps>
struct Pick<Category, Default, P, Ps...> {
  using type =
      typename std::conditional_t<policy_of<P, Category>, std::type_identity<P>, Pick<Category, Default, Ps...>>::type;
};

}  // namespace detail

/// The policy of that category in the pack; `Default` if there is none.
template <class Category, class Default, class... Ps>
using pick_t = typename detail::Pick<Category, Default, Ps...>::type;

}  // namespace allfold
