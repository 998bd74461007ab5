// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <ucp/api/ucp.h>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/task.hpp>
#include <allfold/transport/ucx_failure.hpp>
#include <allfold/transport/ucx_tag.hpp>
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
  std::uint64_t tag = 0;
  int asked = any_source;
  int peer = any_source;  ///< as asked; of a receive from any: who sent it, once it is over
  bool receives = false;
  bool in_use = false;
  bool ended = false;   ///< UCX has called back, maybe before the call that started it returned
  bool queued = false;  ///< among those that are ready
  bool over = false;
  bool ok = false;
  bool dropped = false;  ///< nobody asks for its outcome any more
};

/// The sends and receives of all calls of one rank. UCX's callbacks mark what is over; `resume_ready` then resumes who
/// waits, outside of them.
///
/// What failed is not over before end_all(): a coroutine that is told may give back memory which UCX still writes.
class UcxOperations {
 public:
  explicit UcxOperations(UcxWorker& worker)
      : worker_(worker), pending_(static_cast<std::size_t>(worker.world_size()) + 1) {}
  UcxOperations(const UcxOperations&) = delete;
  UcxOperations& operator=(const UcxOperations&) = delete;
  /// UCX 1.13 calls back for what it was to send to a dead peer over shared memory no earlier than its worker ends.
  ~UcxOperations() {
    for (auto& operation : all_) {
      if (operation->request == nullptr) continue;
      operation->owner = nullptr;
      worker_.keep(std::move(operation));
    }
  }

  /// Null: it is over and ok.
  UcxOperation* send(int peer, std::uint64_t tag, const void* from, std::size_t bytes,
                     ucs_memory_type_t memory = UCS_MEMORY_TYPE_HOST) {
    UcxOperation* const operation = take(peer, tag, bytes, false);
    ucp_request_param_t how{};
    how.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
    // The short way within the call copies with the CPU, whatever the kind, unless the cache of CUDA's memory has
    // entries.
    if (memory != UCS_MEMORY_TYPE_HOST) how.op_attr_mask |= UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
    how.cb.send = [](void* request, ucs_status_t status, void* user) {
      end(static_cast<UcxOperation*>(user), request, status, status == UCS_OK);
    };
    how.user_data = operation;
    how.memory_type = memory;
    return started(operation, ::ucp_tag_send_nbx(worker_.endpoint(peer), from, bytes, tag, &how));
  }

  /// From any_source: of any sender.
  UcxOperation* receive(int peer, std::uint64_t tag, void* to, std::size_t bytes,
                        ucs_memory_type_t memory = UCS_MEMORY_TYPE_HOST) {
    UcxOperation* const operation = take(peer, tag, bytes, true);
    ucp_request_param_t how{};
    // Without the callback UCX 1.13 does not always tell the size of a message that was there already.
    how.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE |
                       UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
    how.cb.recv = [](void* request, ucs_status_t status, const ucp_tag_recv_info_t* got, void* user) {
      auto* const receiving = static_cast<UcxOperation*>(user);
      if (status == UCS_OK || status == UCS_ERR_MESSAGE_TRUNCATED) sent_by(receiving, *got);
      const bool fits = status == UCS_OK && got->length == receiving->bytes;
      if (receiving->owner != nullptr && (status == UCS_ERR_MESSAGE_TRUNCATED || (status == UCS_OK && !fits))) {
        receiving->owner->wrong_size_ = {receiving->peer, got->length, receiving->bytes};
      }
      end(receiving, request, status, fits);
    };
    how.user_data = operation;
    how.memory_type = memory;
    const std::uint64_t mask = peer == any_source ? ~UcxTag::of_sender : ~std::uint64_t{0};
    return started(operation, ::ucp_tag_recv_nbx(worker_.handle(), to, bytes, tag, mask, &how));
  }

  void drop(UcxOperation* operation) noexcept {
    operation->dropped = true;
    operation->join = nullptr;
    if (operation->over && !operation->queued) give(operation);
  }

  /// Whether one failed, which end_all() has yet to tell.
  bool failed() const noexcept { return failed_; }
  /// The rank whose message had another size; -1: none.
  const WrongSize& wrong_size() const noexcept { return wrong_size_; }
  /// How many are under way with that peer.
  int pending(int peer) const noexcept { return pending_[index_of(peer)]; }
  /// How many receives wait for a message of any peer.
  int pending_of_any() const noexcept { return pending_.back(); }
  /// A rank that the call of that tag waits for, or any call; -1: none. Better one that is received from: it may be
  /// late itself.
  int waited_for(std::uint64_t call) const noexcept {
    constexpr std::uint64_t of_call = UcxTag::of_communicator | UcxTag::of_channel | UcxTag::of_sequence;
    int peer = -1;
    for (const auto& operation : all_) {
      if (!operation->in_use || operation->over) continue;
      if (call != no_call && ((operation->tag ^ call) & of_call) != 0) continue;
      if (peer < 0 || operation->receives) peer = operation->peer;
      if (peer >= 0 && operation->receives) break;
    }
    return peer;
  }
  /// A rank that has sent a message to a call that waits for another one: it calls something else; -1: none.
  ALLFOLD_COLD int differing() const noexcept {
    for (const auto& operation : all_) {
      if (!operation->in_use || operation->over || !operation->receives || operation->peer == any_source) continue;
      const bool user = (operation->tag & UcxTag::of_channel) == UcxTag::of_channel;
      const std::uint64_t of_record = user ? UcxTag::of_user_type : UcxTag::of_record;
      const std::uint64_t of_step = ((std::uint64_t{1} << 25) - 1) & ~UcxTag::of_sender;
      if (user && operation->bytes == 0) continue;  // it says nothing of where it lies
      const std::uint64_t mask = ~(user ? of_record : of_record | of_step);
      ucp_tag_recv_info_t info{};
      const ucp_tag_message_h message = ::ucp_tag_probe_nb(worker_.handle(), operation->tag & mask, mask, 0, &info);
      if (message == nullptr || (user && info.length == 0)) continue;
      if (((info.sender_tag ^ operation->tag) & of_record) != 0) return operation->peer;
    }
    return -1;
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

  /// Cancels the receives, ends the endpoints unless others use them and nothing is being sent, waits until UCX is
  /// through with all, and then tells who waits. UCX keeps what waits for room in the shared memory of a dead peer:
  /// after 200 ms the worker itself ends.
  ALLFOLD_COLD void end_all(bool others_go_on) noexcept {
    for (const auto& operation : all_) {
      if (operation->request != nullptr && operation->receives && worker_.exists()) {
        ::ucp_request_cancel(worker_.handle(), operation->request);
      }
    }
    const auto busy = [this] {
      for (const auto& operation : all_) {
        if (operation->request != nullptr) return true;
      }
      return false;
    };
    constexpr std::chrono::milliseconds patience{200};
    const auto wait = [&] {
      const Deadline soon = Deadline::after(patience);
      while (busy() && !soon.expired()) worker_.progress();
    };
    if (others_go_on) wait();
    if (!others_go_on || busy()) {
      worker_.close();
      wait();
    }
    if (busy()) worker_.destroy();
    for (const auto& operation : all_) {
      operation->request = nullptr;
      if (operation->in_use && !operation->over) conclude(operation.get(), false);
    }
  }

 private:
  static void end(UcxOperation* operation, void* request, ucs_status_t status, bool ok) noexcept {
    ::ucp_request_free(request);
    operation->request = nullptr;
    operation->ended = true;
    if (operation->owner == nullptr) return;
    UcxOperations& all = *operation->owner;
    if (ok) return all.conclude(operation, true);
    // What this rank has cancelled says nothing of the peer, whom others that share the worker may need.
    const bool blames =
        status != UCS_ERR_CANCELED && operation->peer != any_source && all.wrong_size_.peer != operation->peer;
    if (blames) all.worker_.mark_broken(operation->peer);
    all.fail();
  }

  void fail() noexcept {
    failed_ = true;
    worker_.hurry();
  }

  UcxOperation* started(UcxOperation* operation, ucs_status_ptr_t request) noexcept {
    if (operation->ended) return operation;
    if (request == nullptr) {
      --pending_[index_of(operation->peer)];
      give(operation);
      return nullptr;
    }
    if (UCS_PTR_IS_ERR(request)) {
      if (operation->peer != any_source) worker_.mark_broken(operation->peer);
      fail();
    } else {
      operation->request = request;
    }
    return operation;
  }

  void conclude(UcxOperation* operation, bool ok) noexcept {
    operation->over = true;
    operation->ok = ok;
    --pending_[index_of(operation->asked)];
    if (operation->dropped) return give(operation);
    if (operation->join == nullptr) return;
    operation->queued = true;
    *last_ready_ = operation;
    last_ready_ = &operation->next;
  }

  std::size_t index_of(int peer) const noexcept {
    return peer == any_source ? pending_.size() - 1 : static_cast<std::size_t>(peer);
  }

  static void sent_by(UcxOperation* operation, const ucp_tag_recv_info_t& got) noexcept {
    operation->peer = UcxTag::sender(got.sender_tag);
  }

  UcxOperation* take(int peer, std::uint64_t tag, std::size_t bytes, bool receives) {
    if (free_ == nullptr) {
      all_.push_back(std::make_unique<UcxOperation>());
      free_ = all_.back().get();
    }
    UcxOperation* const operation = std::exchange(free_, free_->next);
    *operation = {
        .owner = this, .bytes = bytes, .tag = tag, .asked = peer, .peer = peer, .receives = receives, .in_use = true};
    ++pending_[index_of(peer)];
    return operation;
  }
  void give(UcxOperation* operation) noexcept {
    operation->in_use = false;
    operation->next = std::exchange(free_, operation);
  }

  UcxWorker& worker_;
  std::vector<int> pending_;  ///< [rank], and last those of any
  std::vector<std::unique_ptr<UcxOperation>> all_;
  UcxOperation* free_ = nullptr;
  UcxOperation* ready_ = nullptr;
  UcxOperation** last_ready_ = &ready_;
  WrongSize wrong_size_;
  bool failed_ = false;
};

}  // namespace allfold::detail
