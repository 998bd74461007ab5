// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Lets peers measure while allfold's ranks sleep.

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <allfold/base/unique_fd.hpp>

#include "peers.hpp"

namespace bench {

/// The peers, and a gate at which all ranks but rank 0 sleep in poll(2) until the peers are done. Made before the
/// ranks are.
class Turns {
 public:
  explicit Turns(const Plan& plan) : timeout_ms_(static_cast<int>(plan.timeout_s * 1000)) {
    if (plan.device != Device::host) return;  // those on GPUs run in the ranks themselves
    for (const std::string& name : plan.peers) start(name, plan);
    if (peers_.empty() && !plan.peers.empty()) throw std::runtime_error("allfold_perf: no peer could be started");
    for (int rank = 0; rank < plan.ranks; ++rank) {
      int ends[2];
      if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("allfold_perf: cannot make a pipe");
      gates_.push_back({allfold::UniqueFd(ends[0]), allfold::UniqueFd(ends[1])});
    }
  }

  /// Those that could be started.
  std::vector<std::string> peer_names() const {
    std::vector<std::string> names;
    for (const auto& peer : peers_) names.push_back(peer->name());
    return names;
  }
  std::size_t peer_count() const { return peers_.size(); }
  Peer& peer(std::size_t i) { return *peers_[i]; }

  /// Collective. Runs `body` on rank 0 while the others sleep.
  template <class Body>
  void alone(int rank, Body&& body) {
    char token = 0;
    if (rank == 0) {
      body();
      for (const Gate& gate : gates_) write_record(gate.write_end.get(), token);
    }
    pollfd ready = {gates_[static_cast<std::size_t>(rank)].read_end.get(), POLLIN, 0};
    if (::poll(&ready, 1, timeout_ms_) != 1 || !read_record(ready.fd, token)) {
      throw std::runtime_error("allfold_perf: the peers took too long; try fewer sizes or a longer --timeout");
    }
  }

 private:
  /// A peer that was not asked for by name may be missing.
  void start(const std::string& name, const Plan& plan) {
    try {
      peers_.push_back(std::make_unique<Peer>(name, plan));
    } catch (const std::runtime_error& error) {
      if (!plan.any_peers) throw;
      std::fprintf(stderr, "allfold_perf: peer %s is left out\n%s\n", name.c_str(), error.what());
    }
  }

  struct Gate {
    allfold::UniqueFd read_end, write_end;
  };
  std::vector<std::unique_ptr<Peer>> peers_;
  std::vector<Gate> gates_;
  int timeout_ms_;
};

}  // namespace bench
