// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include <allfold/launch/message_progress.hpp>
#include <allfold/memory/host_identity.hpp>
#include <allfold/policy/meeting.hpp>
#include <allfold/policy/message_options.hpp>
#include <allfold/policy/transport.hpp>
#include <allfold/transport/ucx_endpoint.hpp>
#include <allfold/transport/ucx_link.hpp>

namespace allfold {

/// Messages through UCX, between ranks on whatever hosts: TCP, shared memory, RDMA as UCX finds them. `Progress`:
/// CallerProgress or ThreadProgress.
template <template <class> class Progress>
class BasicUcxTransport {
 public:
  using policy_category = transport_tag;
  using endpoint_type = UcxEndpoint;
  using progress_type = Progress<UcxLink>;
  static constexpr std::string_view name = "ucx";
  static constexpr int max_world_size = UcxLink::max_ranks;

  Identity identity() const { return host_identity(); }
  std::string refusal(std::span<const Identity>) const { return {}; }

  /// @throws UcxError; what the meeting throws
  void connect(Meeting& meeting, std::span<const Identity> ranks, const MessageOptions& options) {
    connection_ = std::make_unique<Connection>(
        meeting, ranks, UcxLink::Options{.sleeps = progress_type::has_thread, .linger = options.linger});
  }

  progress_type& progress() noexcept { return connection_->progress; }

  void leave() noexcept {
    if (connection_) connection_->progress.close();
  }

 private:
  struct Connection {
    Connection(Meeting& meeting, std::span<const Identity> ranks, const UcxLink::Options& options)
        : link(meeting, ranks, options), progress(link) {}

    UcxLink link;
    progress_type progress;
  };

  std::unique_ptr<Connection> connection_;
};

/// The shortest way: the caller makes progress.
using UcxTransport = BasicUcxTransport<CallerProgress>;
/// Communication goes on while the caller computes.
using UcxThreadTransport = BasicUcxTransport<ThreadProgress>;

static_assert(message_transport_policy<UcxTransport>);
static_assert(message_transport_policy<UcxThreadTransport>);

}  // namespace allfold
