// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>
#include <span>
#include <vector>

#include <allfold/ucx.hpp>

#include "network.hpp"

namespace digits {

/// What is particular to training over UCX: the gradient lies in any memory, and motions of messages fold it.
class OverUcx {
 public:
  using Comm = allfold::Communicator<allfold::UcxTransport>;
  using Way = allfold::AllReduceMotion;
  static constexpr std::span<const Way> ways = allfold::all_reduce_motions;

  explicit OverUcx(Comm& comm) : comm_(comm), gradient_(Network::gradient_count) {}

  static constexpr bool runs(Way, int) { return true; }
  /// Whether its bits are those of the sum in rank order.
  static constexpr bool in_rank_order(Way way) { return is_reproducible(way); }

  std::span<float> gradient() { return gradient_; }
  void fold(Way way) {
    // One row: this motion, whatever the size and the number of ranks.
    const allfold::MotionRow<Way> only[] = {{std::numeric_limits<int>::max(), way, 0, way, 0, way}};
    comm_.selector().all_reduce_rows = comm_.selector().reproducible_all_reduce_rows = only;
    comm_.all_reduce(gradient_, allfold::sum, {.fast = !in_rank_order(way)});
    comm_.selector() = {};
  }

 private:
  Comm& comm_;
  std::vector<float> gradient_;
};

}  // namespace digits
