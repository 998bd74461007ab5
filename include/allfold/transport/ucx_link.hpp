// SPDX-License-Identifier: Apache-2.0
#pragma once

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
#include <allfold/transport/ucx_operations.hpp>
#include <allfold/transport/ucx_worker.hpp>

namespace allfold {

/// Why the ranks of a link no longer go on together.
struct UcxFailure {
  ErrorCode code = ErrorCode::peer;  ///< peer, timeout or mismatch
  int source = -1;                   ///< the rank to blame
  bool departed = false;             ///< it has left, without an accident
};

/// One rank's way to all others through UCX: the worker, what is under way, and how the others are.
///
/// For one thread at a time: whoever drives a call makes progress for all of them. After a failure nothing goes on: the
/// ranks tell each other, so that all of them name the same one.
class UcxLink {
 public:
  struct Options {
    /// Tells communicators apart that ranks have at one time; the same on all ranks, below 512.
    int communicator = 0;
    /// How long the destructor waits for the other ranks' last calls.
    Duration linger = std::chrono::seconds(5);
  };

  /// Collective. `ranks`: who they are, by rank.
  /// @throws UsageError for a world or an id that is too large; UcxError; what the meeting throws
  ALLFOLD_COLD UcxLink(Meeting& meeting, std::span<const Identity> ranks, const Options& options)
      : worker_(checked(meeting, options)),
        operations_(worker_),
        communicator_(options.communicator),
        linger_(options.linger),
        word_of_(ranks.size()),
        process_(ranks.size()) {
    const Identity& mine = ranks[static_cast<std::size_t>(rank())];
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      if (!ranks[r].same_host(mine)) continue;
      process_[r].emplace(ranks[r].process, ranks[r].process_start);
    }
    crowded_ = detail::more_ranks_than_cores(meeting, ranks);
  }
  UcxLink(const UcxLink&) = delete;
  UcxLink& operator=(const UcxLink&) = delete;
  ~UcxLink() {
    if (!failure_ && world_size() > 1) leave();
    operations_.end_all();
  }

  int rank() const noexcept { return worker_.rank(); }
  int world_size() const noexcept { return worker_.world_size(); }
  int communicator() const noexcept { return communicator_; }
  BlockPool& pool() noexcept { return pool_; }
  detail::UcxOperations& operations() noexcept { return operations_; }
  const std::optional<UcxFailure>& failure() const noexcept { return failure_; }

  /// Makes progress until `over()`, or until a failure: then nothing is under way any more, and all who waited have been
  /// resumed. Gives the core away where ranks are more than cores.
  template <class Over>
  void drive(Over&& over, Deadline deadline) {
    int empty = 0;
    Clock::time_point look_at{};  // no clock for a call that is through at once
    for (unsigned round = 1; !over() && !failure_; ++round) {
      empty = worker_.progress() != 0 ? 0 : empty + 1;
      if (!operations_.failed() && operations_.resume_ready()) {
        empty = 0;
        continue;
      }
      if (crowded_ && empty > 5) ::sched_yield();
      if (round % 32 != 0 && !operations_.failed()) continue;
      const Clock::time_point now = Clock::now();
      if (look_at == Clock::time_point{}) look_at = now + look_interval;
      if (now < look_at && !operations_.failed()) continue;
      look_at = now + look_interval;
      look_around(now >= deadline.at());
    }
    while (failure_ && operations_.resume_ready()) continue;
  }

  /// For a call that cannot go on, for a reason of this rank's own: it ends here, and on the other ranks.
  ALLFOLD_COLD void abandon() {
    if (!failure_) fail({ErrorCode::peer, rank()});
  }

 private:
  /// What ranks tell each other beside their calls.
  struct Word {
    enum class Kind : std::int32_t { none, leaves, failed };
    Kind kind = Kind::none;
    ErrorCode code{};
    std::int32_t source = -1;  ///< the rank to blame; -1: not known yet
    std::int32_t waits_for = -1;
    std::int32_t from = -1;
  };

  static constexpr std::chrono::milliseconds look_interval{1};
  /// How long ranks whose deadline has passed wait for each other's word.
  static constexpr std::chrono::milliseconds hearing{300};

  static Meeting& checked(Meeting& meeting, const Options& options) {
    if (meeting.world_size() > max_message_ranks) {
      throw UsageError(meeting.where(),
                       {"there cannot be ", meeting.world_size(), " ranks; expected 1 to ", max_message_ranks});
    }
    if (options.communicator < 0 || options.communicator > 511) {
      throw UsageError(meeting.where(),
                       {"UcxLink::Options::communicator is ", options.communicator, "; expected 0 to 511"});
    }
    return meeting;
  }

  std::uint64_t control_tag() const noexcept {
    return detail::UcxTag::control | detail::UcxTag::communicator(communicator_);
  }
  Word& word_of(int peer) noexcept { return word_of_[static_cast<std::size_t>(peer)]; }
  bool silent(int peer) noexcept { return peer != rank() && word_of(peer).kind == Word::Kind::none; }

  bool gone(int peer) const noexcept {
    const auto& process = process_[static_cast<std::size_t>(peer)];
    return worker_.broken(peer) || (process && !process->alive());
  }

  void progress_for(Duration time) {
    const Deadline soon = Deadline::after(time);
    do {
      if (worker_.progress() == 0) ::sched_yield();
    } while (!soon.expired());
  }

  void tell_all(Word word) {
    word.from = rank();
    ucp_request_param_t nothing{};
    // They outlive this call: UCX may still read them.
    told_ = word;
    for (int peer = 0; peer < world_size(); ++peer) {
      if (peer == rank() || worker_.broken(peer)) continue;
      const ucs_status_ptr_t request =
          ::ucp_tag_send_nbx(worker_.endpoint(peer), &told_, sizeof told_, control_tag(), &nothing);
      if (UCS_PTR_IS_PTR(request)) ::ucp_request_free(request);
    }
  }

  void hear() {
    for (;;) {
      ucp_tag_recv_info_t info{};
      const ucp_tag_message_h message = ::ucp_tag_probe_nb(
          worker_.handle(), control_tag(), detail::UcxTag::control | detail::UcxTag::of_communicator, 1, &info);
      if (message == nullptr) return;
      Word word;
      ucp_request_param_t nothing{};
      const ucs_status_ptr_t request = ::ucp_tag_msg_recv_nbx(worker_.handle(), &word, sizeof word, message, &nothing);
      if (UCS_PTR_IS_PTR(request)) {  // so short a message came with its announcement: this ends
        while (::ucp_request_check_status(request) == UCS_INPROGRESS) worker_.progress();
        ::ucp_request_free(request);
      }
      if (!UCS_PTR_IS_ERR(request) && word.from >= 0 && word.from < world_size()) word_of(word.from) = word;
    }
  }

  /// Somebody's word that names who is to blame.
  std::optional<UcxFailure> told_reason() {
    for (const Word& word : word_of_) {
      if (word.kind == Word::Kind::failed && word.source >= 0) {
        return UcxFailure{word.code, word.source, word_of(word.source).kind == Word::Kind::leaves};
      }
    }
    return std::nullopt;
  }

  /// A rank that is gone though it has not left, or has left while a call needs it.
  std::optional<UcxFailure> missing_rank() {
    for (int peer = 0; peer < world_size(); ++peer) {
      if (peer == rank() || word_of(peer).kind == Word::Kind::failed || !gone(peer)) continue;
      const bool left = word_of(peer).kind == Word::Kind::leaves;
      if (!left || operations_.pending(peer) > 0) return UcxFailure{ErrorCode::peer, peer, left};
    }
    for (int peer = 0; peer < world_size(); ++peer) {
      if (word_of(peer).kind == Word::Kind::leaves && operations_.pending(peer) > 0) {
        return UcxFailure{ErrorCode::peer, peer, true};
      }
    }
    return std::nullopt;
  }

  bool somebody_failed() const noexcept {
    for (const Word& word : word_of_) {
      if (word.kind == Word::Kind::failed) return true;
    }
    return false;
  }

  ALLFOLD_COLD void look_around(bool late) {
    hear();
    if (operations_.mismatched() >= 0) return fail({ErrorCode::mismatch, operations_.mismatched()});
    if (const auto told = told_reason()) return fail(*told);
    if (operations_.failed() || missing_rank()) {
      // What the peer sent before it went is still on its way, a word of why among it.
      progress_for(std::chrono::milliseconds(10));
      hear();
      if (const auto told = told_reason()) return fail(*told);
      if (!operations_.failed() && operations_.resume_ready()) return;
      if (const auto missing = missing_rank()) return fail(*missing);
      if (operations_.failed()) return fail({ErrorCode::peer, operations_.waited_for()});
    }
    if (late || somebody_failed()) fail_late();
  }

  /// A deadline has passed, here or elsewhere. All who still can say so: who is silent is to blame, and first of all a
  /// silent rank that somebody waits for.
  ALLFOLD_COLD void fail_late() {
    const int waits_for = operations_.waited_for();
    tell_all({.kind = Word::Kind::failed, .code = ErrorCode::timeout, .waits_for = waits_for});
    const Deadline end = Deadline::after(hearing);
    const auto all_spoke = [this] {
      for (int peer = 0; peer < world_size(); ++peer) {
        if (silent(peer)) return false;
      }
      return true;
    };
    do {
      progress_for(std::chrono::milliseconds(1));
      hear();
      if (const auto told = told_reason()) return end_with(*told);
      if (const auto missing = missing_rank()) return fail(*missing);
    } while (!all_spoke() && !end.expired());

    int source = waits_for >= 0 && silent(waits_for) ? waits_for : -1;
    for (const Word& word : word_of_) {
      if (source < 0 && word.waits_for >= 0 && silent(word.waits_for)) source = word.waits_for;
    }
    for (int peer = 0; peer < world_size() && source < 0; ++peer) {
      if (silent(peer)) source = peer;
    }
    end_with({ErrorCode::timeout, source < 0 ? waits_for : source});
  }

  /// Tells the others as well.
  ALLFOLD_COLD void fail(UcxFailure failure) {
    tell_all({.kind = Word::Kind::failed, .code = failure.code, .source = failure.source});
    progress_for(std::chrono::milliseconds(20));
    end_with(failure);
  }

  void end_with(UcxFailure failure) {
    failure_ = failure;
    operations_.end_all();
  }

  /// Waits until all ranks are through with their last call: who goes before would be taken for a failure.
  ALLFOLD_COLD void leave() noexcept {
    tell_all({.kind = Word::Kind::leaves});
    const Deadline end = Deadline::after(linger_);
    const auto expected = [this] {
      for (int peer = 0; peer < world_size(); ++peer) {
        if (silent(peer) && !gone(peer)) return true;
      }
      return false;
    };
    for (hear(); expected() && !end.expired(); hear()) progress_for(std::chrono::microseconds(50));
    worker_.flush(end.sooner(Deadline::after(std::chrono::seconds(1))));
  }

  BlockPool pool_;  // it outlives what UCX writes
  UcxWorker worker_;
  detail::UcxOperations operations_;
  int communicator_;
  Duration linger_;
  std::vector<Word> word_of_;                        ///< [rank]
  std::vector<std::optional<PeerProcess>> process_;  ///< [rank], of this host
  Word told_;
  std::optional<UcxFailure> failure_;
  bool crowded_ = false;
};

}  // namespace allfold
