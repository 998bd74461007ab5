// SPDX-License-Identifier: Apache-2.0
#pragma once

/// What is timed, behind interfaces: the measurement knows no device, no element type and no library.

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <allfold/policy/algorithm.hpp>

#include "plan.hpp"

namespace bench {

/// One way to run a size. A peer looks at the mode alone.
struct Case {
  Mode mode = Mode::calls;
  Buffers buffers = Buffers::symmetric;
  std::optional<allfold::Algorithm> algorithm{};  ///< nothing: the selector's choice
  Collective collective = Collective::all_reduce;
};

/// Calls that are not timed, then batches of back-to-back calls.
struct Turn {
  int warmup = 0;
  long calls = 1;  ///< of one batch
  int batches = 1;
};

/// The mean of one batch: microseconds of one call, and those that the host spent on it if it does not wait for it.
struct Sample {
  double us = 0;
  double cpu_us = 0;
};

/// The machine's limit beside which a result stands. 0: not measured here. Memory: each rank on its own core and all
/// at once, GB/s of payload per rank.
struct Ceiling {
  double copy_gbs = 0;  ///< b = a: the faster of memcpy and streaming stores
  double add_gbs = 0;   ///< b += a
  double tcp_us = 0;    ///< as many bytes from rank to rank over a TCP socket: half a ping-pong
};

/// One case at one size, ready to be repeated. Every member is collective.
class Trial {
 public:
  virtual ~Trial() = default;

  /// What runs; `none` for a peer, and for an algorithm over messages, which has a name alone.
  virtual allfold::Algorithm algorithm() const { return allfold::Algorithm::none; }
  virtual std::string algorithm_name() const { return std::string(allfold::name(algorithm())); }
  /// Writes operands and makes one call: whether it gave the expected result, where the plan asks. Leaves operands
  /// fit for repeated calls: sums in place must not overflow.
  virtual bool start() = 0;
  /// One sample for each batch, of this rank.
  virtual std::vector<Sample> turn(const Turn& turn) = 0;
  /// Whether repeated calls leave the right result; true where that cannot be told.
  virtual bool verify() { return true; }
};

/// A library of collectives: allfold, or a peer.
class Subject {
 public:
  virtual ~Subject() = default;

  virtual std::string name() const = 0;
  /// What it runs on, or which version it is.
  virtual std::string about() const { return {}; }
  /// Why it takes no part; empty if it does.
  virtual std::string absent() const { return {}; }
  /// Null if it cannot run the case. Collective.
  virtual std::unique_ptr<Trial> trial(const Case& c, std::size_t count) = 0;
  /// Collective.
  virtual Ceiling ceiling(std::size_t /*bytes*/) { return {}; }
};

/// All that take part in a run: allfold, and its peers in the order of the plan.
struct Field {
  std::unique_ptr<Subject> own;
  std::vector<std::unique_ptr<Subject>> peers;
};

}  // namespace bench
