// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <span>

#include <allfold/policy/categories.hpp>
#include <allfold/policy/identity.hpp>
#include <allfold/policy/link_matrix.hpp>

namespace allfold {

/// Finds the links between the ranks of a window. Called once, at rendezvous, on every rank with the same ranks;
/// rank 0's answer is taken.
template <class T>
concept topology_policy = policy_of<T, topology_tag> && requires(T& topology, std::span<const Identity> ranks) {
  { topology.links(ranks) } -> std::same_as<LinkMatrix>;
};

}  // namespace allfold
