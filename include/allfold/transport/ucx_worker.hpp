// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <ucp/api/ucp.h>
#include <unistd.h>

#include <allfold/base/deadline.hpp>
#include <allfold/policy/meeting.hpp>
#include <allfold/transport/ucx_status.hpp>

namespace allfold {

/// UCX's context and worker, and an endpoint to every rank. For one thread at a time.
///
/// Endpoints report errors (UCP_ERR_HANDLING_MODE_PEER), with shared memory among them: see set_ucx_environment().
class UcxWorker {
 public:
  /// Collective: meets the other ranks to learn their addresses. Connections are made by the first messages.
  /// @throws UcxError; what the meeting throws
  ALLFOLD_COLD explicit UcxWorker(Meeting& meeting) : rank_(meeting.rank()), broken_(index_of(meeting.world_size())) {
    const Where where = meeting.where();
    detail::set_ucx_environment();
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_ESTIMATED_NUM_EPS;
    params.features = UCP_FEATURE_TAG;
    params.estimated_num_eps = broken_.size();
    ucp_context_h context = nullptr;
    detail::check_ucx(where, ::ucp_init(&params, nullptr, &context),
                      {"UCX could not be initialized; see the variables UCX_TLS and UCX_NET_DEVICES"});
    context_.reset(context);

    ucp_worker_params_t of_worker{};
    of_worker.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
    of_worker.thread_mode = UCS_THREAD_MODE_SERIALIZED;
    ucp_worker_h worker = nullptr;
    detail::check_ucx(where, ::ucp_worker_create(context, &of_worker, &worker),
                      {"UCX found no way to communicate; see the variables UCX_TLS and UCX_NET_DEVICES"});
    worker_.reset(worker);
    connect(meeting, where);
  }
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;
  ~UcxWorker() {
    if (forked()) {  // the connections are the parent's, and not for its child to end
      static_cast<void>(worker_.release());
      static_cast<void>(context_.release());
    } else {
      close();
    }
  }

  int rank() const noexcept { return rank_; }
  int world_size() const noexcept { return static_cast<int>(broken_.size()); }
  ucp_worker_h handle() const noexcept { return worker_.get(); }
  ucp_ep_h endpoint(int peer) const noexcept { return endpoints_[index_of(peer)].handle; }

  /// Lets UCX work; never to be called from one of its callbacks. How much it has done.
  unsigned progress() noexcept { return worker_ ? ::ucp_worker_progress(worker_.get()) : 0; }

  /// Whether this is a child of the process that made it.
  bool forked() const noexcept { return ::getpid() != owner_; }

  /// Whether UCX has said that messages no longer reach the peer, or come from it.
  bool broken(int peer) const noexcept { return broken_[index_of(peer)]; }
  void mark_broken(int peer) noexcept { broken_[index_of(peer)] = true; }

  /// Waits until what was sent has reached the peers, or cannot.
  void flush(Deadline deadline) noexcept {
    if (!worker_) return;
    ucp_request_param_t nothing{};
    finish(::ucp_worker_flush_nbx(worker_.get(), &nothing), deadline);
  }

  /// Ends every endpoint, and with it what has been sent and is not over: their callbacks come from progress.
  void close() noexcept {
    std::vector<ucs_status_ptr_t> closing;
    ucp_request_param_t force{};
    force.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    force.flags = UCP_EP_CLOSE_FLAG_FORCE;
    for (Peer& peer : endpoints_) {
      if (peer.handle == nullptr) continue;
      closing.push_back(::ucp_ep_close_nbx(peer.handle, &force));
      peer.handle = nullptr;
    }
    const Deadline soon = Deadline::after(std::chrono::milliseconds(200));
    for (const ucs_status_ptr_t request : closing) finish(request, soon);
  }

  /// Ends everything at once: no memory is read or written any more, and the callbacks that were due come, or never will.
  /// For what close() did not end.
  void destroy() noexcept { worker_.reset(); }

 private:
  struct Peer {
    UcxWorker* worker = nullptr;
    int rank = 0;
    ucp_ep_h handle = nullptr;
  };
  struct Cleanup {
    void operator()(ucp_context_h context) const noexcept { ::ucp_cleanup(context); }
    void operator()(ucp_worker_h worker) const noexcept { ::ucp_worker_destroy(worker); }
  };

  static std::size_t index_of(int rank) noexcept { return static_cast<std::size_t>(rank); }

  void connect(Meeting& meeting, const Where& where) {
    ucp_address_t* address = nullptr;
    std::size_t bytes = 0;
    detail::check_ucx(where, ::ucp_worker_get_address(worker_.get(), &address, &bytes),
                      {"UCX could not tell this rank's address"});
    const std::string mine(reinterpret_cast<const char*>(address), bytes);
    ::ucp_worker_release_address(worker_.get(), address);
    const std::vector<std::string> all = meeting.all_gather_bytes("UCX addresses", mine);

    endpoints_.resize(all.size());
    for (std::size_t r = 0; r < all.size(); ++r) {
      Peer& peer = endpoints_[r];
      peer.worker = this;
      peer.rank = static_cast<int>(r);
      ucp_ep_params_t params{};
      params.field_mask =
          UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
      params.address = reinterpret_cast<const ucp_address_t*>(all[r].data());
      params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
      params.err_handler.arg = &peer;
      params.err_handler.cb = [](void* arg, ucp_ep_h, ucs_status_t) {
        const Peer& failed = *static_cast<Peer*>(arg);
        failed.worker->mark_broken(failed.rank);
      };
      detail::check_ucx(where, ::ucp_ep_create(worker_.get(), &params, &peer.handle),
                        {"UCX finds no way to rank ", peer.rank,
                         "; see whether UCX_TLS and UCX_NET_DEVICES name one that both have"});
    }
  }

  void finish(ucs_status_ptr_t request, Deadline deadline) noexcept {
    if (!UCS_PTR_IS_PTR(request)) return;
    while (::ucp_request_check_status(request) == UCS_INPROGRESS && !deadline.expired()) progress();
    ::ucp_request_free(request);
  }

  // The worker goes before its context.
  std::unique_ptr<ucp_context, Cleanup> context_;
  std::unique_ptr<ucp_worker, Cleanup> worker_;
  int rank_;
  pid_t owner_ = ::getpid();
  std::vector<char> broken_;  ///< [rank]
  std::vector<Peer> endpoints_;
};

}  // namespace allfold
