// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bitset>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <allfold/launch/caller_progress.hpp>
#include <allfold/launch/message_progress.hpp>
#include <allfold/launch/thread_progress.hpp>
#include <allfold/memory/host_identity.hpp>
#include <allfold/policy/meeting.hpp>
#include <allfold/policy/message_options.hpp>
#include <allfold/policy/transport.hpp>
#include <allfold/transport/ucx_endpoint.hpp>
#include <allfold/transport/ucx_link.hpp>
#include <allfold/transport/ucx_tag.hpp>
#include <allfold/transport/ucx_worker.hpp>

namespace allfold {

/// What a transport over UCX is made of, for memory of the host.
struct UcxParts {
  using worker_type = UcxWorker;
  using link_type = UcxLink;
  using endpoint_type = UcxEndpoint;
  static constexpr std::string_view name = "ucx";
};

/// Messages through UCX, between ranks on whatever hosts: TCP, shared memory, RDMA as UCX finds them. `Progress`:
/// CallerProgress or ThreadProgress.
///
/// A copy of a transport that is connected shares its worker, connections and progress, where the ranks are the same:
/// pass one communicator's transport to `create` for another. With progress by the caller one thread then uses them
/// all; if one of them fails, all end.
template <template <class> class Progress, class Parts = UcxParts>
class BasicUcxTransport {
 public:
  using policy_category = transport_tag;
  using endpoint_type = typename Parts::endpoint_type;
  using progress_type = Progress<typename Parts::worker_type>;
  static constexpr std::string_view name = Parts::name;
  static constexpr int max_world_size = UcxLink::max_ranks;
  static constexpr int max_channels = detail::UcxTag::channels;

  BasicUcxTransport() = default;
  BasicUcxTransport(const BasicUcxTransport& other) noexcept : shared_(other.shared_) {}
  BasicUcxTransport(BasicUcxTransport&&) noexcept = default;
  BasicUcxTransport& operator=(BasicUcxTransport other) noexcept {
    std::swap(shared_, other.shared_);
    std::swap(link_, other.link_);
    return *this;
  }
  ~BasicUcxTransport() { leave(); }

  Identity identity() const { return host_identity(); }
  std::string refusal(std::span<const Identity>) const { return {}; }

  /// @throws UcxError; what the meeting throws
  void connect(Meeting& meeting, std::span<const Identity> ranks, const MessageOptions& options) {
    const int number = agree_on_number(meeting, ranks, options);
    if (shared_ == nullptr) shared_ = make_progressing<Shared>(meeting, ranks);
    const UcxLink::Options of_link{.communicator = number, .linger = options.linger};
    progress().run([&] {
      if constexpr (has_gates) {
        link_ = std::make_unique<Link>(shared_->worker, meeting, ranks, of_link, options);
        if (link_->has_gates()) progress().set_gates(&shared_->worker.gates());
      } else {
        link_ = std::make_unique<Link>(shared_->worker, meeting, ranks, of_link);
      }
    });
  }

  progress_type& progress() noexcept { return shared_->progress; }
  typename Parts::link_type& link() noexcept { return *link_; }
  /// Whether it has the worker of another.
  bool shares_worker() const noexcept { return shared_.use_count() > 1; }

  void leave() noexcept {
    if (link_ == nullptr) return;
    progress().run([&] { link_->close(); });
    link_.reset();
  }

 private:
  using Link = typename Parts::link_type;
  static constexpr bool has_gates = requires(typename Parts::worker_type& worker) { worker.gates(); };

  struct Shared {
    Shared(Meeting& meeting, std::span<const Identity> who)
        : ranks(who.begin(), who.end()), worker(meeting, progress_type::has_thread), progress(worker) {}

    bool joins(std::span<const Identity> who) const noexcept {
      return std::equal(who.begin(), who.end(), ranks.begin(), ranks.end(),
                        [](const Identity& a, const Identity& b) { return a.same_process(b); });
    }

    std::vector<Identity> ranks;
    typename Parts::worker_type worker;
    progress_type progress;
  };

  /// What number the communicator has among those that share the worker: the first that is free on all ranks. The
  /// worker is given up unless all ranks can share theirs.
  int agree_on_number(Meeting& meeting, std::span<const Identity> ranks, const MessageOptions& options) {
    struct Offer {
      bool shares;
      std::bitset<256> taken;
    };
    Offer mine{options.shared_worker && shared_ != nullptr && shared_->joins(ranks), {}};
    if (mine.shares) {
      progress().run([&] {
        mine.taken = shared_->worker.numbers();
        mine.shares = !shared_->worker.ended_by();
      });
    }
    std::bitset<256> taken;
    bool shares = true;
    for (const Offer& offer : meeting.all_gather("shared workers", mine)) {
      shares = shares && offer.shares;
      taken |= offer.taken;
    }
    if (!shares || taken.all()) {
      shared_.reset();
      return 0;
    }
    int number = 0;
    while (taken[static_cast<std::size_t>(number)]) ++number;
    return number;
  }

  std::shared_ptr<Shared> shared_;
  std::unique_ptr<Link> link_;  ///< before its worker
};

/// The shortest way: the caller makes progress.
using UcxTransport = BasicUcxTransport<CallerProgress>;
/// Communication goes on while the caller computes.
using UcxThreadTransport = BasicUcxTransport<ThreadProgress>;

static_assert(message_transport_policy<UcxTransport>);
static_assert(message_transport_policy<UcxThreadTransport>);

}  // namespace allfold
