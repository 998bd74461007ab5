// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace allfold {

/// What a fold reads and writes. A value is an operand or a result as the user has it; a partial is the unrounded fold
/// of some ranks' operands.
enum class FoldKind : unsigned char { values_to_value, values_to_partial, partials_to_partial, partials_to_value };

}  // namespace allfold

/// What cudaStream_t points to.
struct CUstream_st;

namespace allfold {

/// A reduction without its type, so that a message algorithm is compiled once and not for each type and operator: what
/// a call through a pointer costs is nothing beside a message. `exec/host_reduction.hpp` makes one.
struct MessageReduction {
  /// Folds n elements of `count` operands, in the order given, into `to`, which may be one of them.
  using Fold = void(const void* reduction, FoldKind kind, const void* const* operands, int count, void* to,
                    std::size_t n, int world_size);

  /// The same in memory of the GPU that is current, enqueued on a stream; cudaSuccess, or why not. `room`: n partials,
  /// used where there are more than `most_enqueued` operands.
  using Enqueue = int(const void* reduction, FoldKind kind, const void* const* operands, int count, void* to,
                      std::size_t n, int world_size, void* room, CUstream_st* stream);
  static constexpr int most_enqueued = 128;

  const void* reduction = nullptr;  ///< the Reduction, which outlives the call
  Fold* fold = nullptr;             ///< of host memory
  Enqueue* enqueue = nullptr;       ///< null where nvcc did not compile it
  std::size_t value_bytes = 0;
  std::size_t partial_bytes = 0;
  bool plain = false;     ///< a value and its partial are the same bytes
  bool commutes = false;  ///< operands may come in any order
};

}  // namespace allfold
