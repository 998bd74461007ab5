// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>

#include <allfold/base/config.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/policy/algorithm.hpp>

/// What cudaStream_t points to: declared here, so that a program without CUDA can name the option too.
struct CUstream_st;

namespace allfold {

/// What holds for a communicator's whole life. Must be the same on every rank.
struct Options {
  /// How long a collective waits for its peers, unless its call says otherwise.
  Duration timeout = std::chrono::seconds(300);
  /// How long `create` waits for the other ranks.
  Duration rendezvous_timeout = std::chrono::seconds(60);
  /// Independent, ordered sequences of collectives; each has signal pads and staging memory of its own.
  int channels = 1;
  /// Staging memory of one rank and channel, in bytes: what a call on private buffers may pass through. A transport may
  /// use less: ShmTransport takes 1 MiB at most.
  std::size_t buffer_bytes = std::size_t{10} << 20;
  /// The executor's shape: blocks that work side by side, each of so many lanes; 0: what the transport finds best. On
  /// CPU ranks a lane is a thread, and one of one is what a rank that owns one core wants. On GPUs `blocks` bounds the
  /// grid, and lanes are left to the transport.
  int blocks = 0;
  int lanes = 0;
};

/// What holds for one call. Must be the same on every rank, but for the timeout.
struct CallOptions {
  /// The stream that a call on GPU memory is enqueued on; null: the default stream. CPU ranks have none.
  CUstream_st* stream = nullptr;
  /// Which sequence the call is in. GPU ranks that call channels in different orders do so on streams that have run a
  /// kernel before, for a stream's first can stand behind another stream's, and with kernels that have run before or
  /// CUDA_MODULE_LOADING=EAGER, for CUDA may wait for what runs to load one (docs/decisions/0008-gpu-protocol.md).
  int channel = 0;
  /// Instead of Options::timeout.
  std::optional<Duration> timeout{};
  /// The rank that reduce and gather give their result to, and broadcast and scatter take theirs from.
  int root = 0;
  /// What a message and its receiver have in common, 0 to 2^31 - 1.
  int tag = 0;
  /// Instead of the selector's choice, over symmetric memory. UsageError if it cannot run the call; would_choose()
  /// tells what can.
  std::optional<Algorithm> algorithm{};
  /// Over messages: the call returns at once, and its Work tells when it is over. Until then its buffers are left
  /// alone.
  bool async = false;
  /// Over messages: operands may be combined in another order than that of ranks, where that is faster. The bits are
  /// the same on every rank still, but depend on algorithm and world size.
  bool fast = false;
};

/// What a launch takes of them.
struct EnqueueOptions {
  Duration timeout{};
  CUstream_st* stream = nullptr;
};

/// How long a call may wait for its peers. Out of line: inlined, g++ 12 and 13 warn at -O3 that a default CallOptions'
/// empty optional is read uninitialized.
ALLFOLD_NOINLINE inline Duration timeout_of(const Where& where, const CallOptions& call, const Options& options) {
  const Duration timeout = call.timeout.value_or(options.timeout);
  if (timeout > Duration::zero()) return timeout;
  throw UsageError(where, {"CallOptions::timeout is ", milliseconds(timeout),
                           " ms; expected more than zero; leave it out for Options::timeout"});
}

}  // namespace allfold
