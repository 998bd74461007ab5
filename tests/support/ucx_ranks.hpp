// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <allfold/algo/message/barrier.hpp>
#include <allfold/memory/host_identity.hpp>
#include <allfold/rendezvous.hpp>
#include <allfold/spawn.hpp>
#include <allfold/store/tcp.hpp>
#include <allfold/transport/ucx_endpoint.hpp>

namespace allfold_test {

/// One rank's link to the others, which it met at a TcpStore.
class UcxRank {
 public:
  /// `ways`: UCX_TLS; empty: UCX's own choice. `timeout` is that of its calls.
  explicit UcxRank(const allfold::Environment& environment, std::string_view ways,
                   allfold::Duration timeout = std::chrono::seconds(20),
                   allfold::Duration rendezvous_timeout = std::chrono::seconds(20))
      : timeout_(timeout) {
    ways.empty() ? ::unsetenv("UCX_TLS") : ::setenv("UCX_TLS", std::string(ways).c_str(), 1);
    const allfold::Deadline deadline = allfold::Deadline::after(rendezvous_timeout);
    store_.emplace(allfold::TcpStore::connect(environment, deadline));
    const allfold::Where where("create", environment.rank, environment.world_size);
    allfold::StoreGather gather(*store_, environment.job, where, environment.rank, environment.world_size, deadline);
    allfold::in_meeting(where, gather, deadline, environment.rank == 0, [&](allfold::Meeting& meeting) {
      const std::vector<allfold::Identity> ranks = meeting.all_gather("identities", allfold::host_identity());
      worker_.emplace(meeting, false);
      link_.emplace(*worker_, meeting, ranks, allfold::UcxLink::Options{});
    });
    // The store is no longer needed by anybody then.
    barrier();
  }

  allfold::UcxWorker& worker() { return *worker_; }
  allfold::UcxLink& link() { return *link_; }
  const allfold::UcxWorker& worker() const { return *worker_; }
  int rank() const { return link_->rank(); }
  int world_size() const { return link_->world_size(); }

  allfold::UcxEndpoint endpoint(std::string_view operation) {
    return allfold::UcxEndpoint(*link_, allfold::CollectiveId{.operation = operation, .sequence = sequence_++});
  }

  /// Runs `body(UcxEndpoint&) -> Task<bool>` as one call.
  template <class Body>
  void run(std::string_view operation, Body&& body) {
    allfold::UcxEndpoint e = endpoint(operation);
    allfold::Task<bool> task = body(e);
    e.drive(task, allfold::Deadline::after(timeout_));
  }

  void barrier() {
    run("barrier", [](allfold::UcxEndpoint& e) { return allfold::message::barrier_dissemination(e); });
  }

 private:
  std::optional<allfold::TcpStore> store_;
  std::optional<allfold::UcxWorker> worker_;
  std::optional<allfold::UcxLink> link_;
  allfold::Duration timeout_;
  std::uint32_t sequence_ = 0;
};

}  // namespace allfold_test
