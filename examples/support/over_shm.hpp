// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <allfold/allfold.hpp>

#include "network.hpp"

namespace digits {

/// What is particular to training over shared memory: where the gradient lies, and what may fold it.
class OverShm {
 public:
  using Comm = allfold::Communicator<>;
  using Way = allfold::Algorithm;
  static constexpr std::span<const Way> ways = allfold::all_algorithms;

  explicit OverShm(Comm& comm) : comm_(comm), gradient_(comm.allocate<float>(Network::gradient_count)) {}

  /// The hybrid cube mesh is for eight ranks.
  static constexpr bool runs(Way way, int world_size) { return way != Way::hybrid_cube_mesh || world_size == 8; }
  /// Whether its bits are those of the sum in rank order.
  static constexpr bool in_rank_order(Way way) { return way != Way::hybrid_cube_mesh; }

  std::span<float> gradient() { return gradient_.span(); }
  void fold(Way way) {
    const allfold::CallOptions options{.algorithm = way};
    comm_.all_reduce(gradient_.span(), allfold::sum, options);
  }

 private:
  Comm& comm_;
  Comm::buffer_type<float> gradient_;
};

}  // namespace digits
