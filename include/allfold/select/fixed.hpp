// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <type_traits>

#include <allfold/policy/algorithm.hpp>
#include <allfold/policy/message_algorithm.hpp>
#include <allfold/policy/selector.hpp>

namespace allfold {

/// What a FixedSelector may be told to choose.
template <class C>
concept fixed_choice =
    std::same_as<C, Algorithm> || std::same_as<C, AllReduceMotion> || std::same_as<C, ReduceMotion> ||
    std::same_as<C, ReduceScatterMotion> || std::same_as<C, BroadcastMotion> || std::same_as<C, AllGatherMotion> ||
    std::same_as<C, AllToAllMotion>;

namespace detail {

/// Of the choices that of this type, or what stands in for it.
template <auto... Choices, class C>
constexpr C choice_or(C choice) noexcept {
  const auto take = [&choice](auto each) {
    if constexpr (std::is_same_v<decltype(each), C>) choice = each;
  };
  (take(Choices), ...);
  return choice;
}

}  // namespace detail

/// Chooses one algorithm, at every size: the least to compile, and what a test of that algorithm wants. An Algorithm is
/// for symmetric memory, motions are for messages, at most one for each collective; with both it serves a program over
/// either kind of transport: `FixedSelector<Algorithm::two_shot, AllReduceMotion::ring>`.
///
/// Over symmetric memory it answers `none` where the algorithm cannot run. Over messages a motion that cannot give what
/// is asked for, or is not named, is `direct`, `pairwise` or `knomial`, which always can.
template <fixed_choice auto... Choices>
class FixedSelector {
  template <class C>
  static constexpr int choices_of = (0 + ... + (std::is_same_v<decltype(Choices), C> ? 1 : 0));
  static_assert(((choices_of<decltype(Choices)> == 1) && ...),
                "allfold: FixedSelector has two choices for one collective; remove one of them");
  static constexpr bool has_algorithm = choices_of<Algorithm> == 1;
  static constexpr bool has_motions = sizeof...(Choices) > choices_of<Algorithm>;

 public:
  using policy_category = selector_tag;
  static constexpr AlgorithmSet candidates =
      has_algorithm ? AlgorithmSet::of(detail::choice_or<Choices...>(Algorithm::none)) : AlgorithmSet{};

  constexpr Algorithm select(const SelectionQuery& query) const noexcept
    requires has_algorithm
  {
    const Algorithm choice = detail::choice_or<Choices...>(Algorithm::none);
    return query.possible.contains(choice) ? choice : Algorithm::none;
  }

  constexpr AllReduceMotion all_reduce(const MessageQuery& query) const noexcept
    requires has_motions
  {
    const AllReduceMotion choice = detail::choice_or<Choices...>(AllReduceMotion::direct);
    const bool in_order = choice != AllReduceMotion::ring || query.commutes;
    return in_order && reproduces(choice, query) ? choice : AllReduceMotion::direct;
  }
  constexpr ReduceMotion reduce(const MessageQuery& query) const noexcept
    requires has_motions
  {
    const ReduceMotion choice = detail::choice_or<Choices...>(ReduceMotion::direct);
    return reproduces(choice, query) ? choice : ReduceMotion::direct;
  }
  constexpr ReduceScatterMotion reduce_scatter(const MessageQuery& query) const noexcept
    requires has_motions
  {
    const ReduceScatterMotion choice = detail::choice_or<Choices...>(ReduceScatterMotion::pairwise);
    return reproduces(choice, query) ? choice : ReduceScatterMotion::pairwise;
  }
  constexpr BroadcastMotion broadcast(const MessageQuery&) const noexcept
    requires has_motions
  {
    return detail::choice_or<Choices...>(BroadcastMotion::knomial);
  }
  constexpr AllGatherMotion all_gather(const MessageQuery&) const noexcept
    requires has_motions
  {
    return detail::choice_or<Choices...>(AllGatherMotion::pairwise);
  }
  constexpr AllToAllMotion all_to_all(const MessageQuery&) const noexcept
    requires has_motions
  {
    return detail::choice_or<Choices...>(AllToAllMotion::pairwise);
  }

 private:
  template <class Motion>
  static constexpr bool reproduces(Motion motion, const MessageQuery& query) noexcept {
    return !query.reproducible || is_reproducible(motion);
  }
};
static_assert(symmetric_selector_policy<FixedSelector<Algorithm::two_shot>>);
static_assert(!message_selector_policy<FixedSelector<Algorithm::two_shot>>);
static_assert(message_selector_policy<FixedSelector<BroadcastMotion::knomial>>);
static_assert(!symmetric_selector_policy<FixedSelector<BroadcastMotion::knomial>>);

}  // namespace allfold
