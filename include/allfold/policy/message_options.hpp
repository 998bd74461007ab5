// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>

#include <allfold/base/deadline.hpp>
#include <allfold/base/variables.hpp>
#include <allfold/policy/operation.hpp>

namespace allfold {

/// How memory of GPUs gets into messages.
enum class CudaWay : unsigned char {
  automatic,  ///< direct where every rank can, else staged
  direct,     ///< the transport takes it as it is
  staged,     ///< through pinned memory of the host, in chunks
};

/// What holds for a communicator over messages, beside Options. Must be the same on every rank. Each has a variable of
/// the environment, which goes before what the program says.
struct MessageOptions {
  /// Which operations wait though CallOptions::async is set; ALLFOLD_BLOCKING_WAIT, as OperationSet::parse reads it.
  OperationSet blocking_wait{};
  /// Whether Work::future() may be asked for; ALLFOLD_FUTURES, 0 or 1.
  bool futures = true;
  /// Whether a communicator that is created with another's transport shares its connections; ALLFOLD_SHARED_WORKER.
  bool shared_worker = true;
  /// Runs all_gather as all_gather_v with equal counts; ALLFOLD_ALL_GATHER_BY_V.
  bool all_gather_by_v = false;
  /// Before every collective ranks compare what they call: a mismatch is an error that shows both sides, at the price
  /// of a small all-gather. Without it a mismatch is found where messages differ in call, type or size;
  /// ALLFOLD_CHECK_CALLS.
  bool check_calls = false;
  /// Whether `create` ends with a barrier and a small all-reduce, on a thread of its own, so that it cannot hang
  /// whatever the network does; ALLFOLD_HEALTH_CHECK.
  bool health_check = false;
  /// How long it may take; ALLFOLD_HEALTH_CHECK_TIMEOUT_MS.
  Duration health_check_timeout = std::chrono::seconds(20);
  /// How long a communicator that is destroyed waits for the other ranks' last calls; ALLFOLD_LINGER_MS.
  Duration linger = std::chrono::seconds(5);
  /// Of a transport that takes memory of GPUs; ALLFOLD_UCX_CUDA, auto, direct or staged.
  CudaWay cuda = CudaWay::automatic;
  /// How long the chunks of staged memory are; ALLFOLD_UCX_CUDA_CHUNK_BYTES.
  std::size_t cuda_chunk_bytes = std::size_t{512} << 10;
  /// Whether Work::wait(stream) lets the stream wait, where a thread makes progress and memory is staged; else the host
  /// waits. While a stream waits the program must not free memory of CUDA, nor run a kernel for the first time (but
  /// with CUDA_MODULE_LOADING=EAGER): CUDA would wait for the stream, and the operation for CUDA, which ends as an
  /// error; ALLFOLD_UCX_CUDA_GATES.
  bool cuda_gates = false;

  /// The same, but for what the environment says.
  /// @throws UsageError for a variable that holds anything else
  ALLFOLD_COLD MessageOptions with_environment() const {
    MessageOptions options = *this;
    const auto set = [](auto& option, auto given) {
      if (given) option = *given;
    };
    const auto set_ms = [](Duration& option, std::optional<long long> given) {
      if (given) option = std::chrono::milliseconds(*given);
    };
    constexpr long long an_hour = 3600 * 1000;
    if (const auto text = variable("ALLFOLD_BLOCKING_WAIT")) {
      options.blocking_wait = OperationSet::parse("ALLFOLD_BLOCKING_WAIT", *text);
    }
    set(options.futures, boolean_variable("ALLFOLD_FUTURES"));
    set(options.shared_worker, boolean_variable("ALLFOLD_SHARED_WORKER"));
    set(options.all_gather_by_v, boolean_variable("ALLFOLD_ALL_GATHER_BY_V"));
    set(options.check_calls, boolean_variable("ALLFOLD_CHECK_CALLS"));
    set(options.health_check, boolean_variable("ALLFOLD_HEALTH_CHECK"));
    set_ms(options.health_check_timeout, integer_variable("ALLFOLD_HEALTH_CHECK_TIMEOUT_MS", 1, an_hour));
    set_ms(options.linger, integer_variable("ALLFOLD_LINGER_MS", 1, an_hour));
    if (const auto way = choice_variable("ALLFOLD_UCX_CUDA", {"auto", "direct", "staged"})) {
      options.cuda = static_cast<CudaWay>(*way);
    }
    if (const auto bytes = integer_variable("ALLFOLD_UCX_CUDA_CHUNK_BYTES", 256, 1 << 26)) {
      options.cuda_chunk_bytes = static_cast<std::size_t>(*bytes);
    }
    set(options.cuda_gates, boolean_variable("ALLFOLD_UCX_CUDA_GATES"));
    return options;
  }
};

}  // namespace allfold
