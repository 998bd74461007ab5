// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <allfold/base/error.hpp>

namespace allfold {

/// What a message costs: the LogGP model, in microseconds. A rank is busy for `overhead_us` (o) with each message it
/// sends or receives, and for so long again with each byte; its port is busy for the larger of `gap_us` (g) and
/// `us_per_byte` (G) times the bytes, in each direction; the wire takes `latency_us` (L). Longer messages than
/// `eager_bytes` wait until the receiver is ready, which is a round trip of 2 L. Folds and copies occupy the rank. The
/// wires are as many as there are pairs of ranks.
///
/// Source: Alexandrov, Ionescu, Schauser, Scheiman, LogGP: incorporating long messages into the LogP model, 1995; the
/// overhead of bytes: Hoefler, Schneider, Lumsdaine, LogGOPSim, 2010.
struct NetworkModel {
  double latency_us = 2.0;
  double overhead_us = 1.2;
  double send_us_per_byte = 0;     ///< of the sender's own time
  double receive_us_per_byte = 0;  ///< of the receiver's
  double gap_us = 0.5;
  double us_per_byte = 1 / 3500.0;
  std::size_t eager_bytes = std::size_t{8} << 10;
  /// G of longer messages than that, of which a port then carries one at a time, whichever its direction; 0: they are
  /// as others.
  double long_us_per_byte = 0;
  double copy_us_per_byte = 1 / 20000.0;
  /// Of one operand.
  double fold_us_per_byte = 1 / 20000.0;
  /// Copies and folds are done beside the rank, one after another, as by a GPU: they are awaited.
  bool offloads = false;
  /// How many cores the ranks share; 0: each has one. What occupies a rank then needs a core, the one that is free
  /// first, and `turn_us` more where another rank had it before.
  int cores = 0;
  double turn_us = 0;
};

/// TCP over the loopback device of one machine: the constants with which the times of 2, 3 and 4 ranks on 2 cores are
/// foretold best, all of them together.
/// Source: bench/results/xeon-2c-ucx-tcp-algorithms-2026-11-22.csv;
/// docs/scaling.md has the errors.
inline constexpr NetworkModel tcp_loopback{.latency_us = 0.5,
                                           .overhead_us = 2.2,
                                           .send_us_per_byte = 1 / 19000.0,
                                           .receive_us_per_byte = 1 / 6700.0,
                                           .gap_us = 0.1,
                                           .us_per_byte = 1 / 19000.0,
                                           .eager_bytes = std::size_t{64} << 10,
                                           .long_us_per_byte = 1 / 3500.0,
                                           .copy_us_per_byte = 1 / 21000.0,
                                           .fold_us_per_byte = 1 / 60000.0,
                                           .turn_us = 0.5};

/// A network of 100 Gbit/s whose adapters send and receive by themselves. Round numbers of that class, not measured.
inline constexpr NetworkModel fabric_100g{.latency_us = 1.5,
                                          .overhead_us = 0.3,
                                          .gap_us = 0.1,
                                          .us_per_byte = 1 / 12000.0,
                                          .eager_bytes = std::size_t{8} << 10,
                                          .copy_us_per_byte = 1 / 20000.0,
                                          .fold_us_per_byte = 1 / 20000.0};

/// What goes wrong or is uneven in a simulated network.
struct Disturbance {
  std::uint64_t seed = 0;
  double jitter_us = 0;                    ///< each message is late by a random time up to this: they overtake
  double start_us = 0;                     ///< each rank begins by so much later, at random
  std::vector<int> absent{};               ///< ranks that never come
  std::vector<std::pair<int, int>> cut{};  ///< pairs of ranks between which every message is lost
  double deadline_us = std::numeric_limits<double>::infinity();  ///< when ranks give up
};

/// Why a simulated collective failed.
struct SimulatedFailure {
  ErrorCode code = ErrorCode::timeout;
  int source = -1;  ///< the rank to blame
  int by = -1;      ///< the rank that noticed
  int world_size = 0;
  std::string what;

  /// Throws it as a communicator would.
  [[noreturn]] ALLFOLD_COLD void raise() const {
    const Where where("simulated collective", by, world_size);
    switch (code) {
      case ErrorCode::mismatch: throw MismatchError(where, source, {what});
      case ErrorCode::peer: throw PeerError(where, source, {what});
      default: throw TimeoutError(where, source, {what});
    }
  }
};

/// How a simulated collective went.
struct SimulatedRun {
  double time_us = 0;  ///< when the last rank was through
  std::uint64_t messages = 0;
  std::uint64_t max_messages = 0;  ///< that one rank sent
  std::uint64_t bytes = 0;
  std::uint64_t max_bytes = 0;  ///< that one rank sent
  int failed_ranks = 0;         ///< that came, and got false
  std::optional<SimulatedFailure> failure{};

  bool ok() const noexcept { return !failure && failed_ranks == 0; }
};

}  // namespace allfold
