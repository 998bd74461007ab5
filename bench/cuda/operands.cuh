// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Operands whose sum is known, written and compared by kernels: a gibibyte is too much for the host.

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

#include "../peer_protocol.hpp"

namespace bench {

/// How a result is compared: allfold's bit by bit with the fold in ascending rank order, accumulated in fp32 and
/// rounded once; a peer's, whose order and rounding are its own, within what rounding each partial sum may lose.
enum class Match { bits, near };

/// What all ranks sum.
struct Operands {
  ElementType type = ElementType::float32;
  std::size_t count = 0;
  int world_size = 1;
  bool whole_numbers = false;  ///< small ones, whose sum is the same in any order
};

/// Writes what `rank` contributes.
void fill_operands(const Operands& operands, int rank, void* in, cudaStream_t stream);

/// Counts the elements of `out` that are not the sum into `*wrong`, which is device memory.
void count_wrong(const Operands& operands, Match match, const void* out, std::uint64_t* wrong, cudaStream_t stream);

}  // namespace bench
