// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <sched.h>

#include <ucp/api/ucp.h>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/memory/block_pool.hpp>
#include <allfold/memory/peer_process.hpp>
#include <allfold/policy/identity.hpp>
#include <allfold/policy/meeting.hpp>
#include <allfold/transport/ucx_cores.hpp>
#include <allfold/transport/ucx_failure.hpp>
#include <allfold/transport/ucx_greeting.hpp>
#include <allfold/transport/ucx_operations.hpp>
#include <allfold/transport/ucx_tag.hpp>
#include <allfold/transport/ucx_words.hpp>
#include <allfold/transport/ucx_worker.hpp>

namespace allfold {

/// One communicator's way to all ranks through UCX: what is under way, and how the others are.
///
/// For one thread at a time, with all others that share its worker: whoever drives a call makes progress for all of
/// them. After a failure nothing goes on: the ranks tell each other, so that all of them name the same one, and
/// communicators that share the worker end too.
class UcxLink final : public UcxClient {
 public:
  /// As many as tags can tell apart.
  static constexpr int max_ranks = 1 << detail::UcxTag::sender_bits;

  struct Options {
    /// Tells communicators apart that ranks have at one time; the same on all ranks, below UcxTag::communicators.
    int communicator = 0;
    /// How long the destructor waits for the other ranks' last calls.
    Duration linger = std::chrono::seconds(5);
  };

  /// Collective. `ranks`: who they are, by rank.
  /// @throws UsageError for a world or an id that is too large; TimeoutError or PeerError that names a rank which
  ///   cannot be reached; what the meeting throws
  ALLFOLD_COLD UcxLink(UcxWorker& worker, Meeting& meeting, std::span<const Identity> ranks, const Options& options)
      : worker_(worker),
        operations_(worker_),
        communicator_(checked(meeting, options).communicator),
        linger_(options.linger),
        process_(ranks.size()),
        words_(worker_, control_tag()) {
    const Identity& mine = ranks[static_cast<std::size_t>(rank())];
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      if (ranks[r].same_host(mine)) process_[r].emplace(ranks[r].process, ranks[r].process_start);
    }
    if (worker_.clients() == 0) worker_.set_crowded(detail::more_ranks_than_cores(meeting, ranks));
    detail::greet(worker_, operations_, control_tag(), meeting);
    worker_.join(*this, communicator_);
  }
  UcxLink(const UcxLink&) = delete;
  UcxLink& operator=(const UcxLink&) = delete;
  ~UcxLink() { close(); }

  /// Leaves: nothing is under way afterwards, and nothing can be begun.
  void close() noexcept {
    if (closed_ || worker_.forked()) return;
    closed_ = true;
    if (!failure_ && world_size() > 1) leave();
    const bool others_go_on = !failure_ && worker_.clients() > 1;
    if (!failure_) failure_ = UcxFailure{ErrorCode::peer, rank(), true};
    failed_.store(true, std::memory_order_release);
    operations_.end_all(others_go_on);
    worker_.settle();
    settle();
    worker_.leave(*this, communicator_);
    // What could not be ended but with its endpoint has taken the others' along.
    if (others_go_on) worker_.end_if_closed({ErrorCode::peer, rank(), true});
  }

  int rank() const noexcept { return worker_.rank(); }
  int world_size() const noexcept { return worker_.world_size(); }
  int communicator() const noexcept { return communicator_; }
  BlockPool& pool() noexcept { return pool_; }
  detail::UcxOperations& operations() noexcept { return operations_; }
  const std::optional<UcxFailure>& failure() const noexcept { return failure_; }

  /// Whether the ranks no longer go on together; from any thread.
  bool failed() const noexcept { return failed_.load(std::memory_order_acquire); }

  bool resume_ready() override { return !operations_.failed() && operations_.resume_ready(); }

  /// After a failure nothing is under way any more, and all who waited have been resumed.
  ALLFOLD_COLD void look(std::uint64_t late) override {
    if (!failure_) look_around(is_mine(late) ? late : no_call);
    if (failure_) settle();
  }

  /// Makes progress until `over()`, or until a failure; see UcxWorker::drive.
  template <class Over, class Late>
  void drive(Over&& over, Late&& late) {
    worker_.drive([&] { return over() || failure_; }, late);
  }

  /// Throws why the ranks no longer go on; only if failed(). `earlier`: a call was about to start.
  [[noreturn]] ALLFOLD_COLD void throw_failure(const Where& where, Duration timeout, bool earlier) const {
    detail::throw_ucx_failure(where, *failure_, operations_.wrong_size(), timeout, earlier);
  }

  /// For a call that cannot go on: it ends here, and on the other ranks.
  ALLFOLD_COLD void abandon(UcxFailure failure) {
    if (!failure_) fail(failure);
    settle();
  }

 private:
  using Word = detail::UcxWord;

  /// How long ranks whose deadline has passed wait for each other's word.
  static constexpr std::chrono::milliseconds hearing{300};
  /// How long a rank that knows whom to blame waits for the others to know as well.
  static constexpr std::chrono::milliseconds parting{500};

  static const Options& checked(Meeting& meeting, const Options& options) {
    if (meeting.world_size() > max_ranks) {
      throw UsageError(meeting.where(),
                       {"there cannot be ", meeting.world_size(), " ranks; expected 1 to ", max_ranks});
    }
    if (options.communicator < 0 || options.communicator >= detail::UcxTag::communicators) {
      throw UsageError(meeting.where(), {"UcxLink::Options::communicator is ", options.communicator, "; expected 0 to ",
                                         detail::UcxTag::communicators - 1});
    }
    return options;
  }

  bool is_mine(std::uint64_t tag) const noexcept {
    return tag == no_call ||
           ((tag ^ detail::UcxTag::communicator(communicator_)) & detail::UcxTag::of_communicator) == 0;
  }

  std::uint64_t control_tag() const noexcept {
    return detail::UcxTag::control | detail::UcxTag::communicator(communicator_);
  }

  /// Whether the peer's process has ended, as far as this host can tell.
  bool dead(int peer) const noexcept {
    const auto& process = process_[static_cast<std::size_t>(peer)];
    return process && !process->alive();
  }
  bool gone(int peer) const noexcept { return worker_.broken(peer) || dead(peer); }

  void progress_for(Duration time) {
    const Deadline soon = Deadline::after(time);
    do {
      if (worker_.progress() == 0) ::sched_yield();
    } while (!soon.expired());
  }

  /// A rank that is gone though it has not left, or has left while a call needs it. First of all one whose process has
  /// ended: that another's connection has ended as well may be because it has given up, on account of that one. Once
  /// ranks give up at a deadline, the end of a connection alone says no more than that: its last word may be lost with
  /// it, for who sends on a connection that the peer has reset cannot read the rest of it.
  std::optional<UcxFailure> missing_rank() {
    for (const bool ended : {true, false}) {
      if (!ended && words_.somebody_failed()) break;
      for (int peer = 0; peer < world_size(); ++peer) {
        if (peer == rank() || words_.kind(peer) == Word::Kind::failed) continue;
        if (ended ? !dead(peer) : !worker_.broken(peer)) continue;
        const bool left = words_.has_left(peer);
        if (!left || operations_.pending(peer) > 0) return UcxFailure{ErrorCode::peer, peer, left};
      }
    }
    for (int peer = 0; peer < world_size(); ++peer) {
      if (words_.has_left(peer) && operations_.pending(peer) > 0) {
        return UcxFailure{ErrorCode::peer, peer, true};
      }
    }
    if (operations_.pending_of_any() > 0) return words_.nobody_left();
    return std::nullopt;
  }

  void settle() {
    while (operations_.resume_ready()) continue;
  }

  ALLFOLD_COLD void look_around(std::uint64_t late) {
    if (worker_.ended_by()) return end_with(*worker_.ended_by());
    words_.hear();
    if (const int peer = operations_.wrong_size().peer; peer >= 0) return fail({ErrorCode::mismatch, peer});
    if (const int differing = operations_.differing(); differing >= 0) return fail({ErrorCode::mismatch, differing});
    if (const auto told = words_.told_reason()) return fail(*told);
    if (operations_.failed() || missing_rank()) {
      // What the peer sent before it went is still on its way, a word of why among it.
      progress_for(std::chrono::milliseconds(10));
      words_.hear();
      if (const auto told = words_.told_reason()) return fail(*told);
      if (!operations_.failed() && operations_.resume_ready()) return;
      if (const auto missing = missing_rank()) return fail(*missing);
      if (operations_.failed() && !words_.somebody_failed()) {
        return fail({ErrorCode::peer, operations_.waited_for(late)});
      }
    }
    if (late != no_call || words_.somebody_failed()) fail_late(late);
  }

  /// A deadline has passed, here or elsewhere. All who still can say so: who is silent is to blame, and first of all a
  /// silent rank that somebody waits for.
  ALLFOLD_COLD void fail_late(std::uint64_t late) {
    const int waits_for = operations_.waited_for(late);
    words_.tell_all({.kind = Word::Kind::failed, .code = ErrorCode::timeout, .waits_for = waits_for});
    const Deadline end = Deadline::after(hearing);
    const auto all_spoke = [this] {
      for (int peer = 0; peer < world_size(); ++peer) {
        if (words_.silent(peer)) return false;
      }
      return true;
    };
    do {
      progress_for(std::chrono::milliseconds(1));
      words_.hear();
      if (const auto told = words_.told_reason()) return end_with(*told);
      if (const auto missing = missing_rank()) return fail(*missing);
    } while (!all_spoke() && !end.expired());

    end_with({ErrorCode::timeout, words_.late_one(waits_for)});
  }

  /// Tells the others as well, and stays until they have told that they know: what is sent goes in order, so that the
  /// word may be behind megabytes, and would be lost with the endpoint. Who then sees this rank go, and has not heard
  /// why, would blame it.
  ALLFOLD_COLD void fail(UcxFailure failure) {
    words_.tell_all({.kind = Word::Kind::failed, .code = failure.code, .source = failure.source});
    const Deadline end = Deadline::after(parting);
    const auto all_know = [this] {
      for (int peer = 0; peer < world_size(); ++peer) {
        if (words_.silent(peer) && !gone(peer)) return false;
      }
      return true;
    };
    do {
      progress_for(std::chrono::microseconds(200));
      words_.hear();
    } while (!all_know() && !end.expired());
    end_with(failure);
  }

  void end_with(UcxFailure failure) {
    failure_ = failure;
    failed_.store(true, std::memory_order_release);
    worker_.end(failure);
    operations_.end_all(false);
    worker_.settle();
    worker_.look(no_call);  // the others end at once: their endpoints are gone
  }

  /// Waits until all ranks are through with their last call: who goes before would be taken for a failure.
  ALLFOLD_COLD void leave() noexcept {
    words_.tell_all({.kind = Word::Kind::leaves});
    const Deadline end = Deadline::after(linger_);
    const auto expected = [this] {
      for (int peer = 0; peer < world_size(); ++peer) {
        if (words_.silent(peer) && !gone(peer)) return true;
      }
      return false;
    };
    for (words_.hear(); expected() && !end.expired(); words_.hear()) progress_for(std::chrono::microseconds(50));
    worker_.flush(end.sooner(Deadline::after(std::chrono::seconds(1))));
  }

  BlockPool pool_;  // it outlives what UCX writes
  UcxWorker& worker_;
  detail::UcxOperations operations_;
  int communicator_;
  Duration linger_;
  std::vector<std::optional<PeerProcess>> process_;  ///< [rank], of this host
  detail::UcxWords words_;
  std::optional<UcxFailure> failure_;
  std::atomic<bool> failed_{false};
  bool closed_ = false;
};

}  // namespace allfold
