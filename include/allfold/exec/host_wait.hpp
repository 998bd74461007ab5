// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <sched.h>

#include <allfold/base/atomics.hpp>
#include <allfold/base/config.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/memory/channel.hpp>
#include <allfold/memory/control_block.hpp>
#include <allfold/memory/peer_process.hpp>

namespace allfold {

/// How this process gets at its peers, the same for all channels of a communicator.
struct HostPeers {
  PeerProcess process[max_window_ranks];  ///< [rank]
  bool crowded = false;                   ///< more ranks than cores: a waiting rank gives its core away soon
};

/// One collective of one rank, shared by the lanes that run it: what they signal, and until when they wait.
class HostWait {
 public:
  struct Call {
    std::uint32_t tag = 0;
    std::uint32_t first_epoch = 0;
    std::uint32_t sequence = 0;
    std::uint8_t channel = 0;
    bool group = false;
    Duration timeout{};
  };

  HostWait(const ChannelView& view, ControlBlock& control, const HostPeers& peers, const Call& call) noexcept
      : view_(view), control_(control), peers_(peers), call_(call), spins_(peers.crowded ? 5 : 4000) {}

  std::uint32_t tag() const noexcept { return call_.tag; }
  std::uint32_t first_epoch() const noexcept { return call_.first_epoch; }

  /// Waits until `peer` has written `expected` to `word`, or an epoch at most so many ahead. False: the collective
  /// failed.
  bool until(const std::uint64_t* word, std::uint64_t expected, int peer,
             std::int32_t most_ahead = most_epochs_ahead) noexcept {
    for (int spin = 0; spin < spins_; ++spin) {
      const Arrival now = arrival(load_acquire(word), expected, most_ahead);
      if (now == Arrival::here) return true;
      if (now == Arrival::mismatched) return fail(ErrorCode::mismatch, peer);
      cpu_pause();
    }
    return stall(word, expected, peer, most_ahead);
  }

  /// Ends the collective here and on every peer. `in_same_kind`: the source too is in a group, or in a call of all.
  /// Always false.
  ALLFOLD_COLD bool fail(ErrorCode code, int source, bool departed = false, bool in_same_kind = true) noexcept {
    const Failure stands = control_.give_up({.code = code,
                                             .source = static_cast<std::uint8_t>(source),
                                             .by = static_cast<std::uint8_t>(view_.rank),
                                             .channel = call_.channel,
                                             .group = call_.group,
                                             .source_group = call_.group && in_same_kind,
                                             .departed = departed,
                                             .sequence = call_.sequence});
    store_release(&failed_, stands.pack());
    return false;
  }

  /// Whether a lane of this rank has failed.
  bool failed() const noexcept { return load_acquire(&failed_) != 0; }

 private:
  /// The slow half of a wait: gives the core away, and looks about a thousand times a second at the clock, the abort
  /// word and the peer.
  ALLFOLD_COLD bool stall(const std::uint64_t* word, std::uint64_t expected, int peer,
                          std::int32_t most_ahead) noexcept {
    const Clock::rep deadline = start_clock();
    Clock::time_point look_at{};
    for (;;) {
      const Arrival now = arrival(load_acquire(word), expected, most_ahead);
      if (now == Arrival::here) return true;
      if (now == Arrival::mismatched) return fail(ErrorCode::mismatch, peer);
      if (!peers_.crowded) {
        for (int i = 0; i < 16; ++i) cpu_pause();
      }
      ::sched_yield();
      const Clock::time_point time = Clock::now();
      if (time < look_at) continue;
      look_at = time + std::chrono::milliseconds(1);
      if (!look_around(word, expected, peer, most_ahead, time.time_since_epoch().count() >= deadline)) return false;
    }
  }

  /// The call's deadline, counted from the first wait that is not over at once: a call that finds its peers there
  /// never reads the clock.
  Clock::rep start_clock() noexcept {
    const Clock::rep now = Deadline::after(call_.timeout).at().time_since_epoch().count();
    return compare_exchange(&deadline_, Clock::rep{0}, now) ? now : load_acquire(&deadline_);
  }

  /// What could keep the peer from ever arriving. A peer's last signal may have come just before it ended, so the
  /// word is looked at once more before the peer is blamed.
  bool look_around(const std::uint64_t* word, std::uint64_t expected, int peer, std::int32_t most_ahead,
                   bool late) noexcept {
    const std::uint64_t abort = load_acquire(&control_.abort);
    if (abort != 0) {
      // The failure may be of a later call, whose ranks had all been here.
      if (arrival(load_acquire(word), expected, most_ahead) == Arrival::here) return true;
      store_release(&failed_, abort);
      return false;
    }
    if (failed()) return false;
    const bool gone = !peers_.process[peer].alive();
    const bool departed = has_rank(load_acquire(&control_.departed), peer);
    if (gone || departed || late) {
      if (arrival(load_acquire(word), expected, most_ahead) != Arrival::not_yet) return true;
      // A dead process is the reason, whatever else holds: a killed rank is named even at the deadline.
      if (gone || departed) return fail(ErrorCode::peer, peer, departed);
      return fail(ErrorCode::timeout, late_rank(peer));
    }
    if (!calls_another(peer)) return true;
    // In a group: the peer may have signalled, met us and gone on.
    if (arrival(load_acquire(word), expected, most_ahead) != Arrival::not_yet) return true;
    return fail(ErrorCode::mismatch, peer, false, false);
  }

  /// At a deadline: a rank that has not entered the call, if there is one; the peer waited for may wait for it too.
  int late_rank(int peer) const noexcept {
    for (int r = 0; r < view_.layout.world_size && !call_.group; ++r) {
      if (r != view_.rank && entered(r) == Arrival::not_yet) return r;
    }
    return peer;
  }

  /// How far a rank is in the calls of all ranks, as against this one.
  Arrival entered(int rank) const noexcept {
    return arrival(load_acquire(&view_.published(rank, false).signal), make_signal(call_.first_epoch, call_.tag));
  }

  /// Whether the peer is at the same point of the channel's sequence with another call, whose signals we would wait
  /// for in vain. If we are in a group, that is any call of all ranks: it cannot end without us.
  bool calls_another(int peer) const noexcept {
    const Arrival theirs = entered(peer);
    return call_.group ? theirs != Arrival::not_yet : theirs == Arrival::mismatched;
  }

  const ChannelView& view_;
  ControlBlock& control_;
  const HostPeers& peers_;
  Call call_;
  int spins_;
  Clock::rep deadline_ = 0;
  std::uint64_t failed_ = 0;
};

}  // namespace allfold
