// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <ucp/api/ucp.h>

#include <allfold/algo/message/task.hpp>
#include <allfold/transport/ucx_worker.hpp>

namespace allfold::detail {

class UcxOperations;

/// A send or a receive that UCX did not end at once.
struct UcxOperation {
  UcxOperations* owner = nullptr;
  void* request = nullptr;  ///< UCX's; null: UCX is through with it
  Join* join = nullptr;
  UcxOperation* next = nullptr;  ///< of those that are ready, or free
  std::size_t bytes = 0;
  int peer = -1;
  bool receives = false;
  bool in_use = false;
  bool ended = false;   ///< UCX has called back, maybe before the call that started it returned
  bool queued = false;  ///< among those that are ready
  bool over = false;
  bool ok = false;
  bool dropped = false;  ///< nobody asks for its outcome any more
};

/// What makes a message one of a call: 1 bit for messages about failures, 9 of the communicator, 6 of the channel, 20
/// of the sequence number, 16 of the step, 12 of the sender.
struct UcxTag {
  static constexpr std::uint64_t control = std::uint64_t{1} << 63;
  static constexpr std::uint64_t of_communicator = std::uint64_t{0x1ff} << 54;

  static constexpr std::uint64_t communicator(int id) noexcept { return static_cast<std::uint64_t>(id & 0x1ff) << 54; }
  static constexpr std::uint64_t call(int communicator_id, int channel, std::uint32_t sequence) noexcept {
    return communicator(communicator_id) | static_cast<std::uint64_t>(channel & 0x3f) << 48 |
           static_cast<std::uint64_t>(sequence & 0xfffff) << 28;
  }
  static constexpr std::uint64_t message(std::uint64_t call, int step, int sender) noexcept {
    return call | static_cast<std::uint64_t>(step & 0xffff) << 12 | static_cast<std::uint64_t>(sender & 0xfff);
  }
};

/// The sends and receives of all calls of one rank. UCX's callbacks mark what is over; `resume_ready` then resumes who
/// waits, outside of them.
///
/// What failed is not over before end_all(): a coroutine that is told may give back memory which UCX still writes.
class UcxOperations {
 public:
  explicit UcxOperations(UcxWorker& worker)
      : worker_(worker), pending_(static_cast<std::size_t>(worker.world_size())) {}
  UcxOperations(const UcxOperations&) = delete;
  UcxOperations& operator=(const UcxOperations&) = delete;

  /// Null: it is over and ok.
  UcxOperation* send(int peer, std::uint64_t tag, const void* from, std::size_t bytes) {
    UcxOperation* const operation = take(peer, bytes, false);
    ucp_request_param_t how{};
    how.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
    how.cb.send = [](void* request, ucs_status_t status, void* user) {
      end(static_cast<UcxOperation*>(user), request, status == UCS_OK);
    };
    how.user_data = operation;
    how.memory_type = UCS_MEMORY_TYPE_HOST;
    return started(operation, ::ucp_tag_send_nbx(worker_.endpoint(peer), from, bytes, tag, &how));
  }

  UcxOperation* receive(int peer, std::uint64_t tag, void* to, std::size_t bytes) {
    UcxOperation* const operation = take(peer, bytes, true);
    ucp_request_param_t how{};
    // Without the callback UCX 1.13 does not always tell the size of a message that was there already.
    how.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE |
                       UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
    how.cb.recv = [](void* request, ucs_status_t status, const ucp_tag_recv_info_t* got, void* user) {
      auto* const receiving = static_cast<UcxOperation*>(user);
      const bool fits = status == UCS_OK && got->length == receiving->bytes;
      if (status == UCS_ERR_MESSAGE_TRUNCATED || (status == UCS_OK && !fits)) {
        receiving->owner->mismatched_ = receiving->peer;
      }
      end(receiving, request, fits);
    };
    how.user_data = operation;
    how.memory_type = UCS_MEMORY_TYPE_HOST;
    return started(operation, ::ucp_tag_recv_nbx(worker_.handle(), to, bytes, tag, ~std::uint64_t{0}, &how));
  }

  void drop(UcxOperation* operation) noexcept {
    operation->dropped = true;
    operation->join = nullptr;
    if (operation->over && !operation->queued) give(operation);
  }

  /// Whether one failed, which end_all() has yet to tell.
  bool failed() const noexcept { return failed_; }
  /// The rank whose message had another size; -1: none.
  int mismatched() const noexcept { return mismatched_; }
  /// How many are under way with that peer.
  int pending(int peer) const noexcept { return pending_[static_cast<std::size_t>(peer)]; }
  /// A rank that is waited for; -1: none. Better one that is received from: it may be late itself.
  int waited_for() const noexcept {
    int peer = -1;
    for (const auto& operation : all_) {
      if (operation->in_use && !operation->over && (peer < 0 || operation->receives)) {
        peer = operation->peer;
        if (operation->receives) break;
      }
    }
    return peer;
  }

  /// Resumes who waits for what is over; whether there was anything.
  bool resume_ready() {
    if (ready_ == nullptr) return false;
    while (ready_ != nullptr) {
      UcxOperation* const operation = std::exchange(ready_, ready_->next);
      if (ready_ == nullptr) last_ready_ = &ready_;
      operation->next = nullptr;
      operation->queued = false;
      Join* const join = std::exchange(operation->join, nullptr);
      if (operation->dropped) give(operation);
      if (join != nullptr) join->arrive().resume();
    }
    return true;
  }

  /// After a failure: cancels the receives, ends the endpoints, waits until UCX is through with all, and then tells who
  /// waits. UCX keeps what waits for room in the shared memory of a dead peer: after 200 ms the worker itself ends.
  ALLFOLD_COLD void end_all() noexcept {
    for (const auto& operation : all_) {
      if (operation->request != nullptr && operation->receives) {
        ::ucp_request_cancel(worker_.handle(), operation->request);
      }
    }
    worker_.close();
    const Deadline soon = Deadline::after(std::chrono::milliseconds(200));
    const auto busy = [this] {
      for (const auto& operation : all_) {
        if (operation->request != nullptr) return true;
      }
      return false;
    };
    while (busy() && !soon.expired()) worker_.progress();
    if (busy()) worker_.destroy();
    for (const auto& operation : all_) {
      operation->request = nullptr;
      if (operation->in_use && !operation->over) conclude(operation.get(), false);
    }
  }

 private:
  static void end(UcxOperation* operation, void* request, bool ok) noexcept {
    ::ucp_request_free(request);
    operation->request = nullptr;
    operation->ended = true;
    UcxOperations& all = *operation->owner;
    if (ok) return all.conclude(operation, true);
    if (all.mismatched_ != operation->peer) all.worker_.mark_broken(operation->peer);
    all.failed_ = true;
  }

  UcxOperation* started(UcxOperation* operation, ucs_status_ptr_t request) noexcept {
    if (operation->ended) return operation;
    if (request == nullptr) {
      --pending_[static_cast<std::size_t>(operation->peer)];
      give(operation);
      return nullptr;
    }
    if (UCS_PTR_IS_ERR(request)) {
      worker_.mark_broken(operation->peer);
      failed_ = true;
    } else {
      operation->request = request;
    }
    return operation;
  }

  void conclude(UcxOperation* operation, bool ok) noexcept {
    operation->over = true;
    operation->ok = ok;
    --pending_[static_cast<std::size_t>(operation->peer)];
    if (operation->dropped) return give(operation);
    if (operation->join == nullptr) return;
    operation->queued = true;
    *last_ready_ = operation;
    last_ready_ = &operation->next;
  }

  UcxOperation* take(int peer, std::size_t bytes, bool receives) {
    if (free_ == nullptr) {
      all_.push_back(std::make_unique<UcxOperation>());
      free_ = all_.back().get();
    }
    UcxOperation* const operation = std::exchange(free_, free_->next);
    *operation = {.owner = this, .bytes = bytes, .peer = peer, .receives = receives, .in_use = true};
    ++pending_[static_cast<std::size_t>(peer)];
    return operation;
  }
  void give(UcxOperation* operation) noexcept {
    operation->in_use = false;
    operation->next = std::exchange(free_, operation);
  }

  UcxWorker& worker_;
  std::vector<int> pending_;  ///< [rank]
  std::vector<std::unique_ptr<UcxOperation>> all_;
  UcxOperation* free_ = nullptr;
  UcxOperation* ready_ = nullptr;
  UcxOperation** last_ready_ = &ready_;
  int mismatched_ = -1;
  bool failed_ = false;
};

}  // namespace allfold::detail
