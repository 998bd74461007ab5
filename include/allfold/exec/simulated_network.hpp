// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/reduction.hpp>
#include <allfold/algo/message/task.hpp>
#include <allfold/base/error.hpp>
#include <allfold/exec/network_model.hpp>
#include <allfold/exec/simulated_engine.hpp>
#include <allfold/exec/simulated_message.hpp>
#include <allfold/memory/block_pool.hpp>

namespace allfold {

/// A transfer of a simulated network; see algo/message/endpoint.hpp.
class SimulatedTransfer {
 public:
  SimulatedTransfer() noexcept = default;
  SimulatedTransfer(detail::SimulatedEngine& engine, detail::SimulatedOperation* operation) noexcept
      : engine_(&engine), operation_(operation) {}
  SimulatedTransfer(SimulatedTransfer&& other) noexcept
      : engine_(other.engine_), operation_(std::exchange(other.operation_, nullptr)) {}
  SimulatedTransfer& operator=(SimulatedTransfer&& other) noexcept {
    std::swap(engine_, other.engine_);
    std::swap(operation_, other.operation_);
    return *this;
  }
  ~SimulatedTransfer() {
    if (operation_ != nullptr) engine_->drop(operation_);
  }

  bool over() const noexcept { return operation_ == nullptr || operation_->over; }
  bool ok() const noexcept { return operation_ == nullptr || operation_->ok; }
  void watch(Join& join) noexcept { operation_->join = &join; }

 private:
  detail::SimulatedEngine* engine_ = nullptr;
  detail::SimulatedOperation* operation_ = nullptr;
};
static_assert(transfer<SimulatedTransfer>);

/// Awaits a copy or a fold.
class SimulatedResult {
 public:
  /// `operation` null: it is done, or has failed.
  SimulatedResult(detail::SimulatedEngine& engine, detail::SimulatedOperation* operation) noexcept
      : ok_(!engine.failed()) {
    if (operation != nullptr) transfer_ = SimulatedTransfer(engine, operation);
  }

  bool await_ready() const noexcept { return transfer_.over(); }
  void await_suspend(std::coroutine_handle<> waiter) noexcept {
    join_ = {waiter, 1};
    transfer_.watch(join_);
  }
  bool await_resume() const noexcept { return ok_ && transfer_.ok(); }

 private:
  SimulatedTransfer transfer_;
  Join join_;
  bool ok_;
};

/// One rank of a simulated network, within one of its calls; see algo/message/endpoint.hpp.
class SimulatedEndpoint {
 public:
  using transfer_type = SimulatedTransfer;

  SimulatedEndpoint(detail::SimulatedEngine& engine, int rank, int call) noexcept
      : engine_(&engine), rank_(rank), call_(call) {}

  int rank() const noexcept { return rank_; }
  int world_size() const noexcept { return engine_->world_size(); }
  /// Of the calls that run side by side.
  int call() const noexcept { return call_; }
  /// What follows is the next collective of this call's sequence.
  void next() noexcept { ++sequence_; }

  SimulatedTransfer send(int peer, int step, const void* from, std::size_t bytes) {
    return {*engine_, engine_->send({rank_, peer, call_, sequence_, step}, from, bytes)};
  }
  SimulatedTransfer receive(int peer, int step, void* to, std::size_t bytes) {
    return {*engine_, engine_->receive({peer, rank_, call_, sequence_, step}, to, bytes)};
  }

  SimulatedResult copy(void* to, const void* from, std::size_t bytes) {
    if (bytes == 0 || to == from) return {*engine_, nullptr};
    return {*engine_, engine_->compute(rank_, {.operands = {from}, .to = to, .n = bytes})};
  }
  SimulatedResult fold(const MessageReduction& reduction, FoldKind kind, std::span<const void* const> operands,
                       void* to, std::size_t n) {
    return {
        *engine_,
        engine_->compute(
            rank_,
            {.reduction = reduction, .kind = kind, .operands = {operands.begin(), operands.end()}, .to = to, .n = n})};
  }

  class Scratch {
   public:
    Scratch(detail::SimulatedEngine& engine, std::size_t bytes);
    void* data() const noexcept { return data_; }

   private:
    Block block_;
    void* data_;
  };
  Scratch scratch(std::size_t bytes) { return {*engine_, bytes}; }

  BlockPool& frames() noexcept { return engine_->pool(); }

 private:
  detail::SimulatedEngine* engine_;
  int rank_;
  int call_;
  int sequence_ = 0;
};
static_assert(endpoint<SimulatedEndpoint>);

/// Ranks and the network between them, in one thread: a discrete-event simulation under which the coroutines of all
/// ranks run, so that message algorithms are tested, and their times foretold, without machines. Everything follows
/// from the model and the seed: two networks of the same are alike.
///
/// With `payload` messages carry their bytes, and results are right. Without it only time passes: no buffer is touched,
/// so that thousands of ranks need no memory for them; their address is `no_memory()`.
class SimulatedNetwork {
 public:
  /// @throws UsageError if there cannot be so many ranks, or the disturbance names others
  explicit SimulatedNetwork(int world_size, const NetworkModel& model = {}, Disturbance disturbance = {},
                            bool payload = true)
      : world_size_(checked(world_size, disturbance)),
        model_(model),
        disturbance_(std::move(disturbance)),
        payload_(payload) {}

  int world_size() const noexcept { return world_size_; }

  static void* no_memory() noexcept { return reinterpret_cast<void*>(std::uintptr_t{1} << 40); }

  /// Runs `body(SimulatedEndpoint&) -> Task<bool>` on every rank until all are through, or have given up; `calls` of
  /// them side by side on each.
  /// @throws what a body threw; UsageError for a body that breaks the rules of an endpoint
  template <class Body>
  SimulatedRun run(Body&& body, int calls = 1) {
    detail::SimulatedEngine engine(world_size_, model_, disturbance_, payload_);
    SimulatedRun result;
    std::exception_ptr error;
    const auto tasks = static_cast<std::size_t>(world_size_) * static_cast<std::size_t>(calls);
    std::vector<SimulatedEndpoint> endpoints;
    endpoints.reserve(tasks);
    for (int call = 0; call < calls; ++call) {
      for (int r = 0; r < world_size_; ++r) endpoints.emplace_back(engine, r, call);
    }

    const auto watched = [&](SimulatedEndpoint& e) -> Task<bool> {
      bool ok = false;
      try {
        ok = co_await body(e);
      } catch (...) {
        if (!error) error = std::current_exception();
        if (!engine.failed()) engine.fail({.by = e.rank(), .world_size = world_size_, .what = "it threw"});
      }
      result.failed_ranks += ok ? 0 : 1;
      result.time_us = std::max(result.time_us, static_cast<double>(engine.rank(e.rank()).clock) * 1e-6);
      engine.finish_one();
      co_return ok;
    };
    std::vector<Task<bool>> running(tasks);
    engine.run(tasks, [&](std::size_t task) {
      running[task] = watched(endpoints[task]);
      running[task].start();
    });
    if (error) std::rethrow_exception(error);

    for (const auto& rank : engine.ranks()) {
      result.messages += rank.messages;
      result.bytes += rank.bytes;
      result.max_messages = std::max(result.max_messages, rank.messages);
      result.max_bytes = std::max(result.max_bytes, rank.bytes);
    }
    result.failure = engine.failure();
    return result;
  }

 private:
  static int checked(int world_size, const Disturbance& disturbance) {
    if (world_size < 1 || world_size > max_message_ranks) {
      throw UsageError("simulated network",
                       {"there cannot be ", world_size, " ranks; expected 1 to ", max_message_ranks});
    }
    for (const int r : disturbance.absent) {
      if (r < 0 || r >= world_size) {
        throw UsageError("simulated network", {"rank ", r, " is absent; expected one of ", world_size, " ranks"});
      }
    }
    return world_size;
  }

  int world_size_;
  NetworkModel model_;
  Disturbance disturbance_;
  bool payload_;
};

inline SimulatedEndpoint::Scratch::Scratch(detail::SimulatedEngine& engine, std::size_t bytes)
    : block_(engine.payload() ? Block(engine.pool(), bytes) : Block()),
      data_(engine.payload() ? block_.data() : SimulatedNetwork::no_memory()) {}

}  // namespace allfold
