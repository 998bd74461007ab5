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
#include <allfold/transport/ucx_greeting.hpp>
#include <allfold/transport/ucx_operations.hpp>
#include <allfold/transport/ucx_worker.hpp>

namespace allfold {

/// One communicator's way to all ranks through UCX: what is under way, and how the others are.
///
/// For one thread at a time, with all others that share its worker: whoever drives a call makes progress for all of them.
/// After a failure nothing goes on: the ranks tell each other, so that all of them name the same one, and communicators
/// that share the worker end too.
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
  /// @throws UsageError for a world or an id that is too large; TimeoutError or PeerError that names a rank which cannot be
  ///   reached; what the meeting throws
  ALLFOLD_COLD UcxLink(UcxWorker& worker, Meeting& meeting, std::span<const Identity> ranks, const Options& options)
      : worker_(worker),
        operations_(worker_),
        communicator_(checked(meeting, options).communicator),
        linger_(options.linger),
        word_of_(ranks.size()),
        process_(ranks.size()) {
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
    const int source = failure_->source;
    const char* const head = earlier ? "the communicator ended earlier: " : "";
    const char* const end = "; this communicator has ended, create it again to go on";
    switch (failure_->code) {
      case ErrorCode::timeout:
        if (source < 0) {
          throw TimeoutError(where, source,
                             {head, "no rank sent the message", earlier ? " in time" : "; expected one within ",
                              earlier ? std::string() : concat({milliseconds(timeout), " ms"}),
                              "; see what the other ranks do, or try a longer timeout", end});
        }
        throw TimeoutError(where, source,
                           {head, "rank ", source, " did not arrive", earlier ? " in time" : "; expected it within ",
                            earlier ? std::string() : concat({milliseconds(timeout), " ms"}),
                            "; see what it does, or try a longer timeout", end});
      case ErrorCode::mismatch:
        if (const auto& size = operations_.wrong_size(); source >= 0 && size.peer == source) {
          throw MismatchError(where, source,
                              {head, "rank ", source, " sent a message of ", size.came, " bytes; expected ",
                               size.expected, "; give both ranks the same type and count", end});
        }
        throw MismatchError(
            where, source,
            {head, "rank ", source, " called something else; expected the same operation, root, type, ",
             "counts and operator on every rank; set MessageOptions::check_calls to see both sides", end});
      default:
        if (source == rank() && failure_->departed) {
          throw UsageError(where, {"the communicator was destroyed before the call was over; expected it to live until "
                                   "then; wait for the Work first"});
        }
        throw PeerError(where, source,
                        {head, "rank ", source, failure_->departed ? " has left" : " is gone",
                         "; expected it to stay until the call is over; see how it ended", end});
    }
  }

  /// For a call that cannot go on: it ends here, and on the other ranks.
  ALLFOLD_COLD void abandon(UcxFailure failure) {
    if (!failure_) fail(failure);
    settle();
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
  Word& word_of(int peer) noexcept { return word_of_[static_cast<std::size_t>(peer)]; }
  bool silent(int peer) noexcept { return peer != rank() && word_of(peer).kind == Word::Kind::none; }

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

  /// A rank that is gone though it has not left, or has left while a call needs it. First of all one whose process has
  /// ended: that another's connection has ended as well may be because it has given up, on account of that one.
  std::optional<UcxFailure> missing_rank() {
    for (const bool ended : {true, false}) {
      for (int peer = 0; peer < world_size(); ++peer) {
        if (peer == rank() || word_of(peer).kind == Word::Kind::failed) continue;
        if (ended ? !dead(peer) : !worker_.broken(peer)) continue;
        const bool left = word_of(peer).kind == Word::Kind::leaves;
        if (!left || operations_.pending(peer) > 0) return UcxFailure{ErrorCode::peer, peer, left};
      }
    }
    for (int peer = 0; peer < world_size(); ++peer) {
      if (word_of(peer).kind == Word::Kind::leaves && operations_.pending(peer) > 0) {
        return UcxFailure{ErrorCode::peer, peer, true};
      }
    }
    if (operations_.pending_of_any() > 0) return nobody_left();
    return std::nullopt;
  }

  /// Of a message from any rank, where all others have left.
  std::optional<UcxFailure> nobody_left() const noexcept {
    int last = -1;
    for (int peer = 0; peer < world_size(); ++peer) {
      if (peer == rank()) continue;
      if (word_of_[static_cast<std::size_t>(peer)].kind != Word::Kind::leaves) return std::nullopt;
      last = peer;
    }
    return last < 0 ? std::nullopt : std::optional(UcxFailure{ErrorCode::peer, last, true});
  }

  bool somebody_failed() const noexcept {
    for (const Word& word : word_of_) {
      if (word.kind == Word::Kind::failed) return true;
    }
    return false;
  }

  void settle() {
    while (operations_.resume_ready()) continue;
  }

  ALLFOLD_COLD void look_around(std::uint64_t late) {
    if (worker_.ended_by()) return end_with(*worker_.ended_by());
    hear();
    if (const int peer = operations_.wrong_size().peer; peer >= 0) return fail({ErrorCode::mismatch, peer});
    if (const int differing = operations_.differing(); differing >= 0) return fail({ErrorCode::mismatch, differing});
    if (const auto told = told_reason()) return fail(*told);
    if (operations_.failed() || missing_rank()) {
      // What the peer sent before it went is still on its way, a word of why among it.
      progress_for(std::chrono::milliseconds(10));
      hear();
      if (const auto told = told_reason()) return fail(*told);
      if (!operations_.failed() && operations_.resume_ready()) return;
      if (const auto missing = missing_rank()) return fail(*missing);
      if (operations_.failed()) return fail({ErrorCode::peer, operations_.waited_for(late)});
    }
    if (late != no_call || somebody_failed()) fail_late(late);
  }

  /// A deadline has passed, here or elsewhere. All who still can say so: who is silent is to blame, and first of all a
  /// silent rank that somebody waits for.
  ALLFOLD_COLD void fail_late(std::uint64_t late) {
    const int waits_for = operations_.waited_for(late);
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

  /// Tells the others as well, and stays until they have told that they know: what is sent goes in order, so that the
  /// word may be behind megabytes, and would be lost with the endpoint. Who then sees this rank go, and has not heard
  /// why, would blame it.
  ALLFOLD_COLD void fail(UcxFailure failure) {
    tell_all({.kind = Word::Kind::failed, .code = failure.code, .source = failure.source});
    const Deadline end = Deadline::after(parting);
    const auto all_know = [this] {
      for (int peer = 0; peer < world_size(); ++peer) {
        if (silent(peer) && !gone(peer)) return false;
      }
      return true;
    };
    do {
      progress_for(std::chrono::microseconds(200));
      hear();
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
  UcxWorker& worker_;
  detail::UcxOperations operations_;
  int communicator_;
  Duration linger_;
  std::vector<Word> word_of_;                        ///< [rank]
  std::vector<std::optional<PeerProcess>> process_;  ///< [rank], of this host
  Word told_;
  std::optional<UcxFailure> failure_;
  std::atomic<bool> failed_{false};
  bool closed_ = false;
};

}  // namespace allfold
