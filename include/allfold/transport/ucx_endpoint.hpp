// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <span>
#include <string_view>
#include <utility>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/reduction.hpp>
#include <allfold/algo/message/task.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/memory/block_pool.hpp>
#include <allfold/transport/ucx_link.hpp>
#include <allfold/transport/ucx_tag.hpp>

namespace allfold {

/// A transfer of UCX; see algo/message/endpoint.hpp.
class UcxTransfer {
 public:
  /// Over, and ok.
  UcxTransfer() noexcept = default;
  /// `operation` null: over, and ok.
  explicit UcxTransfer(detail::UcxOperation* operation) noexcept : operation_(operation) {}
  /// Over, and failed: nothing goes on any more.
  static UcxTransfer refused() noexcept {
    UcxTransfer transfer;
    transfer.ok_ = false;
    return transfer;
  }
  UcxTransfer(UcxTransfer&& other) noexcept
      : operation_(std::exchange(other.operation_, nullptr)), ok_(std::exchange(other.ok_, true)) {}
  UcxTransfer& operator=(UcxTransfer&& other) noexcept {
    std::swap(operation_, other.operation_);
    std::swap(ok_, other.ok_);
    return *this;
  }
  ~UcxTransfer() {
    if (operation_ != nullptr) operation_->owner->drop(operation_);
  }

  bool over() const noexcept { return operation_ == nullptr || operation_->over; }
  bool ok() const noexcept { return operation_ == nullptr ? ok_ : operation_->ok; }
  /// Of a receive that is over and ok: who sent the message.
  int source() const noexcept { return operation_->peer; }
  void watch(Join& join) noexcept { operation_->join = &join; }

 private:
  detail::UcxOperation* operation_ = nullptr;
  bool ok_ = true;
};
static_assert(transfer<UcxTransfer>);

/// Awaits what is done already.
struct UcxResult {
  bool ok;

  bool await_ready() const noexcept { return true; }
  void await_suspend(std::coroutine_handle<>) const noexcept {}
  bool await_resume() const noexcept { return ok; }
};

/// One call of one rank over UCX, on memory of the host; see algo/message/endpoint.hpp. It must outlive its task.
class UcxEndpoint {
 public:
  using transfer_type = UcxTransfer;

  /// A collective's. Its channel is below UcxTag::channels.
  UcxEndpoint(UcxLink& link, const CollectiveId& id) noexcept
      : link_(link),
        tag_(detail::UcxTag::call(link.communicator(), id.channel, id.sequence, id.record)),
        operation_(id.operation) {}
  /// A message's, which a user sends or receives.
  UcxEndpoint(UcxLink& link, const MessageId& id) noexcept
      : link_(link), tag_(detail::UcxTag::user(link.communicator(), id.tag, id.type)), operation_(id.operation) {}

  int rank() const noexcept { return link_.rank(); }
  int world_size() const noexcept { return link_.world_size(); }

  UcxTransfer send(int peer, int step, const void* from, std::size_t bytes) {
    if (link_.failure()) return UcxTransfer::refused();
    return UcxTransfer(link_.operations().send(peer, detail::UcxTag::message(tag_, step, rank()), from, bytes));
  }
  /// `peer` may be any_source.
  UcxTransfer receive(int peer, int step, void* to, std::size_t bytes) {
    if (link_.failure()) return UcxTransfer::refused();
    return UcxTransfer(link_.operations().receive(peer, detail::UcxTag::message(tag_, step, peer), to, bytes));
  }

  UcxResult copy(void* to, const void* from, std::size_t bytes) noexcept {
    if (link_.failure()) return {false};
    if (bytes != 0 && to != from) std::memmove(to, from, bytes);
    return {true};
  }
  UcxResult fold(const MessageReduction& reduction, FoldKind kind, std::span<const void* const> operands, void* to,
                 std::size_t n) {
    if (link_.failure()) return {false};
    reduction.fold(reduction.reduction, kind, operands.data(), static_cast<int>(operands.size()), to, n, world_size());
    return {true};
  }

  Block scratch(std::size_t bytes) { return Block(link_.pool(), bytes); }
  BlockPool& frames() noexcept { return link_.pool(); }

  /// Runs the task of this call, and whatever else is under way, until it is done. A task that has been started by
  /// `start` is gone on with.
  /// Sync: returns when the call is over on this rank. Polls; gives the core away where ranks are more than cores.
  /// @throws PeerError, TimeoutError or MismatchError that name the rank to blame: nothing goes on then, on any rank;
  ///   what the task threw
  void drive(Task<bool>& task, Deadline deadline) {
    if (!started_) start(task);
    if (!task.done()) {
      timeout_ = deadline.remaining();
      link_.drive([&] { return task.done(); },
                  [&](Clock::time_point now) { return now >= deadline.at() ? tag_ : no_call; });
    }
    bool ok = false;
    try {
      ok = task.done() && task.result();
    } catch (...) {
      abandon();
      throw;
    }
    if (!ok) link_.throw_failure(where(), timeout_, false);
  }

  /// Lets the task begin, so that several are under way; each is driven later.
  void start(Task<bool>& task) {
    started_ = true;
    task.start();
  }

  /// What messages of the call bear.
  std::uint64_t tag() const noexcept { return tag_; }
  Where where() const { return Where(operation_, rank(), world_size()); }
  /// How long the call may take, for messages about errors.
  void set_timeout(Duration timeout) noexcept { timeout_ = timeout; }

  /// For a call that cannot go on, for a reason of this rank's own: all end, here and on the other ranks.
  ALLFOLD_COLD void abandon() noexcept { link_.abandon({ErrorCode::peer, rank()}); }
  /// Likewise because `source` calls something else.
  ALLFOLD_COLD void mismatch(int source) noexcept { link_.abandon({ErrorCode::mismatch, source}); }

  /// Why a task of this call ended with false.
  ALLFOLD_COLD std::exception_ptr failure() const noexcept {
    try {
      link_.throw_failure(where(), timeout_, false);
    } catch (...) {
      return std::current_exception();
    }
  }

 private:
  UcxLink& link_;
  std::uint64_t tag_;
  std::string_view operation_;
  Duration timeout_{};
  bool started_ = false;
};
static_assert(endpoint<UcxEndpoint>);

}  // namespace allfold
