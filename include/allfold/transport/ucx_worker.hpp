// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <bitset>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <poll.h>
#include <sched.h>

#include <ucp/api/ucp.h>
#include <unistd.h>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/policy/meeting.hpp>
#include <allfold/transport/ucx_context.hpp>
#include <allfold/transport/ucx_failure.hpp>
#include <allfold/transport/ucx_files.hpp>
#include <allfold/transport/ucx_status.hpp>

namespace allfold {

/// One of those who share a worker.
class UcxClient {
 public:
  /// Resumes who waits for what is over; whether there was anything.
  virtual bool resume_ready() = 0;
  /// Looks at the peers. `late`: the tag of a call whose deadline has passed, or no_call.
  virtual void look(std::uint64_t late) = 0;

 protected:
  ~UcxClient() = default;
};

/// What has to be looked at besides, each time that progress is made.
class UcxPoller {
 public:
  /// Whether anything happened.
  virtual bool poll() = 0;
  /// How long who makes progress may sleep.
  virtual Duration rest() const noexcept = 0;
  /// After a failure, before anybody is told: returns when nothing that it has started uses memory any more.
  virtual void settle() noexcept = 0;

 protected:
  ~UcxPoller() = default;
};

/// UCX's context and worker, an endpoint to every rank, and who works with them. For one thread at a time.
///
/// Endpoints report errors (UCP_ERR_HANDLING_MODE_PEER), with shared memory among them: see set_ucx_environment().
class UcxWorker {
 public:
  /// Collective: meets the other ranks to learn their addresses. Over TCP an endpoint connects as it is made. `sleeps`:
  /// whether sleep() will be called. `for_gpus`: see open_ucx().
  /// @throws UcxError; UsageError if the process may not have files enough; what the meeting throws
  ALLFOLD_COLD UcxWorker(Meeting& meeting, bool sleeps, bool for_gpus = false)
      : context_(detail::open_ucx(meeting.where(), index_of(meeting.world_size()), sleeps, for_gpus)),
        rank_(meeting.rank()),
        broken_(index_of(meeting.world_size())) {
    const Where where = meeting.where();
    ucp_worker_params_t of_worker{};
    of_worker.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
    of_worker.thread_mode = UCS_THREAD_MODE_SERIALIZED;
    ucp_worker_h worker = nullptr;
    detail::check_ucx(where, ::ucp_worker_create(context_.get(), &of_worker, &worker),
                      {"UCX found no way to communicate; see the variables UCX_TLS and UCX_NET_DEVICES"});
    worker_.reset(worker);
    if (sleeps) {
      int event_fd = -1;
      detail::check_ucx(where, ::ucp_worker_get_efd(worker, &event_fd), {"UCX has no descriptor to wait for messages"});
      event_fd_.store(event_fd, std::memory_order_relaxed);
    }
    connect(meeting, where);
  }
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;
  ~UcxWorker() {
    if (forked()) {  // the connections are the parent's, and not for its child to end
      static_cast<void>(worker_.release());
      static_cast<void>(context_.release());
    } else {
      discard_unmatched();
      close();
    }
  }

  int rank() const noexcept { return rank_; }
  int world_size() const noexcept { return static_cast<int>(broken_.size()); }
  ucp_worker_h handle() const noexcept { return worker_.get(); }
  ucp_ep_h endpoint(int peer) const noexcept { return endpoints_[index_of(peer)].handle; }

  /// Lets UCX work; never to be called from one of its callbacks. How much it has done.
  unsigned progress() noexcept { return worker_ ? ::ucp_worker_progress(worker_.get()) : 0; }

  /// Whether close() has ended its endpoints.
  bool closed() const noexcept { return closed_; }
  /// Whether it has not been destroyed.
  bool exists() const noexcept { return worker_ != nullptr; }
  /// Whether this is a child of the process that made it.
  bool forked() const noexcept { return ::getpid() != owner_; }

  /// How long to sleep, at most that; zero: there is something to do.
  Duration arm(Duration timeout) noexcept {
    if (poller_ != nullptr) timeout = std::min(timeout, poller_->rest());
    if (timeout <= Duration::zero() || (worker_ && ::ucp_worker_arm(worker_.get()) != UCS_OK)) return {};
    return timeout;
  }
  /// Waits until a message comes, `descriptor` can be read, or the time is over; may end early. Another thread may make
  /// progress meanwhile.
  void sleep(int descriptor, Duration timeout) const noexcept {
    pollfd wakers[] = {{descriptor, POLLIN, 0}, {event_fd_.load(std::memory_order_relaxed), POLLIN, 0}};
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(timeout).count();
    const timespec time{.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    static_cast<void>(::ppoll(wakers, 2, &time, nullptr));
  }
  /// After so many rounds without a message: gives the core away where ranks are more than cores.
  void pause(int empty) const noexcept {
    if (crowded_ && empty > 5) ::sched_yield();
  }
  void set_poller(UcxPoller* poller) noexcept { poller_ = poller; }
  ALLFOLD_COLD void settle() noexcept {
    if (poller_ != nullptr) poller_->settle();
  }

  /// Whether UCX sends from memory of GPUs, and receives into it.
  ALLFOLD_COLD bool knows_cuda() const noexcept {
    return (detail::memory_types_of(context_.get()) & detail::cuda_memory) != 0;
  }

  /// Whether UCX has said that messages no longer reach the peer, or come from it.
  bool broken(int peer) const noexcept { return broken_[index_of(peer)]; }
  void mark_broken(int peer) noexcept { broken_[index_of(peer)] = true; }

  /// The communicators that share it, each with its number.
  void join(UcxClient& client, int number) {
    clients_.push_back(&client);
    numbers_.set(static_cast<std::size_t>(number));
  }
  void leave(UcxClient& client, int number) noexcept {
    std::erase(clients_, &client);
    numbers_.reset(static_cast<std::size_t>(number));
  }
  std::size_t clients() const noexcept { return clients_.size(); }
  const std::bitset<256>& numbers() const noexcept { return numbers_; }

  /// Lets UCX work, and resumes who can go on; whether anything happened.
  bool advance() {
    bool moved = progress() != 0;
    for (UcxClient* const client : clients_) moved = client->resume_ready() || moved;
    if (poller_ != nullptr) moved = poller_->poll() || moved;
    return moved;
  }

  /// To be done a thousand times a second; see UcxClient.
  ALLFOLD_COLD void look(std::uint64_t late) {
    urgent_ = false;
    for (UcxClient* const client : clients_) client->look(late);
  }
  /// Asks for a look soon.
  void hurry() noexcept { urgent_ = true; }

  /// Makes progress until `over()`. `late(now)`: the tag of a call whose deadline has passed, or no_call; asked a
  /// thousand times a second. Gives the core away where ranks are more than cores.
  template <class Over, class Late>
  void drive(Over&& over, Late&& late) {
    int empty = 0;
    Clock::time_point look_at{};  // no clock for a call that is through at once
    for (unsigned round = 1; !over(); ++round) {
      empty = advance() ? 0 : empty + 1;
      pause(empty);
      if (round % 32 != 0 && !urgent_) continue;
      const Clock::time_point now = Clock::now();
      if (look_at == Clock::time_point{}) look_at = now + look_interval;
      if (now < look_at && !urgent_) continue;
      look_at = now + look_interval;
      look(late(now));
    }
  }
  /// Whether ranks are more than cores.
  void set_crowded(bool crowded) noexcept { crowded_ = crowded; }

  /// Something that UCX may write until its worker has ended.
  void keep(std::shared_ptr<void> what) { kept_.push_back(std::move(what)); }

  /// Why nothing goes on any more, with any client.
  const std::optional<UcxFailure>& ended_by() const noexcept { return ended_by_; }
  void end(const UcxFailure& failure) noexcept {
    if (!ended_by_) ended_by_ = failure;
  }
  /// If close() has ended the endpoints of clients that go on, they end too.
  ALLFOLD_COLD void end_if_closed(const UcxFailure& failure) {
    if (!closed_ || clients_.empty()) return;
    end(failure);
    look(no_call);
  }

  /// Waits until what was sent has reached the peers, or cannot.
  void flush(Deadline deadline) noexcept {
    if (!worker_) return;
    ucp_request_param_t nothing{};
    finish(::ucp_worker_flush_nbx(worker_.get(), &nothing), deadline);
  }

  /// Takes short messages that nobody has received, of which UCX would warn: a call that failed leaves some.
  ALLFOLD_COLD void discard_unmatched() noexcept {
    if (!worker_) return;
    char rest[4096];
    ucp_request_param_t nothing{};
    for (;;) {
      ucp_tag_recv_info_t info{};
      if (::ucp_tag_probe_nb(worker_.get(), 0, 0, 0, &info) == nullptr || info.length > sizeof rest) return;
      const ucp_tag_message_h message = ::ucp_tag_probe_nb(worker_.get(), 0, 0, 1, &info);
      finish(::ucp_tag_msg_recv_nbx(worker_.get(), rest, sizeof rest, message, &nothing),
             Deadline::after(std::chrono::seconds(1)));
    }
  }

  /// Ends every endpoint, and with it what has been sent and is not over: their callbacks come from progress.
  void close() noexcept {
    closed_ = true;
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

  /// Ends everything at once: no memory is read or written any more, and the callbacks that were due come, or never
  /// will. For what close() did not end.
  void destroy() noexcept {
    event_fd_.store(-1, std::memory_order_relaxed);
    worker_.reset();
  }

 private:
  struct Peer {
    UcxWorker* worker = nullptr;
    int rank = 0;
    ucp_ep_h handle = nullptr;
  };
  struct WorkerEnd {
    void operator()(ucp_worker_h worker) const noexcept { ::ucp_worker_destroy(worker); }
  };

  static constexpr std::chrono::milliseconds look_interval{1};

  static std::size_t index_of(int rank) noexcept { return static_cast<std::size_t>(rank); }

  void connect(Meeting& meeting, const Where& where) {
    ucp_address_t* address = nullptr;
    std::size_t bytes = 0;
    detail::check_ucx(where, ::ucp_worker_get_address(worker_.get(), &address, &bytes),
                      {"UCX could not tell this rank's address"});
    const std::string mine(reinterpret_cast<const char*>(address), bytes);
    ::ucp_worker_release_address(worker_.get(), address);
    const std::size_t alone = detail::open_files();  // nobody has connected yet
    const std::vector<std::string> all = meeting.all_gather_bytes("UCX addresses", mine);

    endpoints_.resize(all.size());
    detail::UcxFiles files(where, alone);
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
      const ucs_status_t made = ::ucp_ep_create(worker_.get(), &params, &peer.handle);
      if (made != UCS_OK) files.check_failed();
      detail::check_ucx(where, made,
                        {"UCX finds no way to rank ", peer.rank,
                         "; see whether UCX_TLS and UCX_NET_DEVICES name one that both have"});
      if (peer.rank != rank_) files.check();
    }
  }

  void finish(ucs_status_ptr_t request, Deadline deadline) noexcept {
    if (!UCS_PTR_IS_PTR(request)) return;
    while (::ucp_request_check_status(request) == UCS_INPROGRESS && !deadline.expired()) progress();
    ::ucp_request_free(request);
  }

  // The worker goes before its context, and before what it writes.
  std::vector<std::shared_ptr<void>> kept_;
  detail::UcxContext context_;
  std::unique_ptr<ucp_worker, WorkerEnd> worker_;
  std::atomic<int> event_fd_{-1};  ///< UCX's
  int rank_;
  pid_t owner_ = ::getpid();
  std::vector<char> broken_;  ///< [rank]
  std::vector<Peer> endpoints_;
  std::vector<UcxClient*> clients_;
  UcxPoller* poller_ = nullptr;
  std::bitset<256> numbers_;
  std::optional<UcxFailure> ended_by_;
  bool closed_ = false;
  bool crowded_ = false;
  bool urgent_ = false;
};

}  // namespace allfold
