// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <allfold/algo/symmetric/hybrid_cube_mesh.hpp>
#include <allfold/algo/symmetric/one_shot.hpp>
#include <allfold/algo/symmetric/one_shot_packet.hpp>
#include <allfold/algo/symmetric/one_shot_push.hpp>
#include <allfold/algo/symmetric/two_shot.hpp>
#include <allfold/algo/symmetric/two_shot_packet.hpp>
#include <allfold/algo/symmetric/two_shot_push.hpp>
#include <allfold/policy/algorithm.hpp>

namespace allfold {

ALLFOLD_ANY_SIDE_BEGIN

/// Algorithms that a program may run, as a type. Only those are compiled.
template <AlgorithmSet Set>
struct Candidates {
  static constexpr AlgorithmSet set = Set;
};

/// Runs `algorithm`, which must be one of the candidates. `none` is two_shot: a set with either has both.
ALLFOLD_ANY_SIDE
template <AlgorithmSet Set, executor E, class Reduction>
ALLFOLD_HD bool all_reduce(E& e, Candidates<Set>, Algorithm algorithm, const AllReduceCall<Reduction>& call) {
  constexpr auto has = [](Algorithm a) { return Set.contains(a); };
  if constexpr (has(Algorithm::one_shot)) {
    if (algorithm == Algorithm::one_shot) return one_shot(e, call);
  }
  if constexpr (has(Algorithm::one_shot_packet)) {
    if (algorithm == Algorithm::one_shot_packet) return one_shot_packet(e, call);
  }
  if constexpr (has(Algorithm::two_shot_packet)) {
    if (algorithm == Algorithm::two_shot_packet) return two_shot_packet(e, call);
  }
  if constexpr (has(Algorithm::hybrid_cube_mesh)) {
    if (algorithm == Algorithm::hybrid_cube_mesh) return hybrid_cube_mesh(e, call);
  }
  if constexpr (has(Algorithm::one_shot_push)) {
    if (algorithm == Algorithm::one_shot_push) return one_shot_push(e, call);
  }
  if constexpr (has(Algorithm::two_shot_push)) {
    if (algorithm == Algorithm::two_shot_push) return two_shot_push(e, call);
  }
  if constexpr (has(Algorithm::two_shot) || has(Algorithm::none)) {
    if (algorithm == Algorithm::two_shot || algorithm == Algorithm::none) return two_shot(e, call);
  }
  __builtin_unreachable();  // the communicator asks for candidates alone
}

ALLFOLD_ANY_SIDE_END

}  // namespace allfold
