// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

#include <allfold/policy/algorithm.hpp>
#include <allfold/policy/categories.hpp>
#include <allfold/policy/message_algorithm.hpp>

namespace allfold {

/// Chooses the algorithm of an all-reduce. `candidates` names all it may ever choose: only those are compiled.
/// `select` must depend on the query alone: every rank asks its own selector, and all must answer alike.
template <class S>
concept symmetric_selector_policy =
    policy_of<S, selector_tag> && requires(const S& selector, const SelectionQuery& query) {
      { selector.select(query) } -> std::same_as<Algorithm>;
      { S::candidates } -> std::convertible_to<AlgorithmSet>;
    };

/// Chooses the motions of collectives over messages, from the query alone, like every other rank.
template <class S>
concept message_selector_policy = policy_of<S, selector_tag> && requires(const S& selector, const MessageQuery& query) {
  { selector.all_reduce(query) } -> std::same_as<AllReduceMotion>;
  { selector.reduce(query) } -> std::same_as<ReduceMotion>;
  { selector.reduce_scatter(query) } -> std::same_as<ReduceScatterMotion>;
  { selector.broadcast(query) } -> std::same_as<BroadcastMotion>;
  { selector.all_gather(query) } -> std::same_as<AllGatherMotion>;
  { selector.all_to_all(query) } -> std::same_as<AllToAllMotion>;
};

/// Either family, or both at once.
template <class S>
concept selector_policy = symmetric_selector_policy<S> || message_selector_policy<S>;

}  // namespace allfold
