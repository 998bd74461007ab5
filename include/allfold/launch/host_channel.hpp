// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include <allfold/algo/symmetric/all_reduce.hpp>
#include <allfold/algo/symmetric/barrier.hpp>
#include <allfold/exec/host_lane.hpp>
#include <allfold/exec/host_team.hpp>
#include <allfold/exec/host_wait.hpp>
#include <allfold/policy/options.hpp>

namespace allfold {

/// One channel of a rank on CPU cores: its view of the channel's memory, its team, and how far it has come. Used by
/// one thread at a time.
class HostChannel {
 public:
  HostChannel(int index, const ChannelView& view, ControlBlock& control, const HostPeers& peers, int lanes)
      : view_(view), control_(control), peers_(peers), team_(view.layout.blocks, lanes), index_(index) {}

  /// Runs `body(lane)` on every lane as the call of `record`, on a vector of `bytes`; group calls do not count in the
  /// channel's epochs. `counts`: it is one of the user's calls. Returns why the communicator failed, if it did.
  template <class Body>
  std::optional<Failure> run(const CallRecord& record, std::size_t bytes, Duration timeout, Body&& body,
                             bool counts = true) {
    const bool group = record.operation == Operation::group_barrier;
    const std::uint32_t tag = publish(record, group);
    if (counts) ++sequence_;
    HostWait wait(view_, control_, peers_,
                  {.tag = tag,
                   .first_epoch = epoch_ + 1,
                   .sequence = sequence_,
                   .channel = static_cast<std::uint8_t>(index_),
                   .group = group,
                   .timeout = timeout});
    std::uint32_t last_epoch = epoch_;
    team_.run([&](int block, int lane) {
      HostLane e(view_, wait, team_, {block, lane}, group_epochs_, bytes);
      if (body(e) && block == 0 && lane == 0) last_epoch = e.epoch();
    });
    if (wait.failed()) return Failure::unpack(load_acquire(&control_.abort));
    epoch_ = last_epoch;
    return std::nullopt;
  }

  /// What `rank` called last, for messages: among all ranks, or in a group.
  CallRecord call_of(int rank, bool group) const noexcept { return view_.published(rank, group).record; }
  /// How many collectives this rank has entered on the channel.
  std::uint32_t sequence() const noexcept { return sequence_; }

 private:
  /// Tells peers what this rank calls, and returns its tag. The record is written only when it differs from the
  /// last one: a repeated call costs its peers no cache line.
  std::uint32_t publish(const CallRecord& record, bool group) noexcept {
    PublishedCall& published = view_.published(view_.rank, group);
    const std::uint32_t tag = record.tag();
    if (!has_tag_[group] || tag_[group] != tag) {
      published.record = record;
      tag_[group] = tag;
      has_tag_[group] = true;
    }
    if (group) {
      for (int r = 0; r < view_.layout.world_size; ++r) group_epochs_[r] += has_rank(record.group, r) ? 1 : 0;
    } else {
      store_release(&published.signal, make_signal(epoch_ + 1, tag));
    }
    return tag;
  }

  ChannelView view_;
  ControlBlock& control_;
  const HostPeers& peers_;
  HostTeam team_;
  int index_;
  std::uint32_t epoch_ = 0;
  std::uint32_t sequence_ = 0;
  std::uint32_t group_epochs_[max_window_ranks] = {};
  std::uint32_t tag_[2] = {};
  bool has_tag_[2] = {};
};

/// Starts an all-reduce of CPU ranks, and returns when it has ended. Found by the communicator through its argument.
template <AlgorithmSet Set, class Reduction>
std::optional<Failure> launch_all_reduce(HostChannel& channel, Candidates<Set> candidates, Algorithm algorithm,
                                         const AllReduceCall<Reduction>& call, const CallRecord& record,
                                         const EnqueueOptions& options) {
  return channel.run(record, call.count * sizeof(typename Reduction::value_type), options.timeout,
                     [&](HostLane& e) { return all_reduce(e, candidates, algorithm, call); });
}

/// The same for a barrier, of all ranks or of those that the record names. `counts`: it is one of the user's calls.
inline std::optional<Failure> launch_barrier(HostChannel& channel, const CallRecord& record,
                                             const EnqueueOptions& options, bool counts = true) {
  return channel.run(
      record, 0, options.timeout,
      [&](HostLane& e) {
        return record.operation == Operation::group_barrier ? group_barrier(e, record.group) : barrier(e);
      },
      counts);
}

}  // namespace allfold
