// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <poll.h>
#include <sched.h>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/base/hash.hpp>
#include <allfold/launch/message_progress.hpp>
#include <allfold/memory/host_identity.hpp>
#include <allfold/policy/transport.hpp>

#include <support/mail.hpp>

/// A transport of messages that is not allfold's, with all that such a one needs, and without UCX: ranks are threads of
/// one process, which write letters to each other. Calls that differ do not meet, and end by their deadlines.

namespace allfold_test {

/// A receive that has been started.
struct Expected {
  int from = 0;  ///< or any_source
  Subject subject;
  void* to = nullptr;
  std::size_t bytes = 0;
  allfold::Join* join = nullptr;
  bool over = false;
  bool ok = false;
  int source = -1;
};

/// One rank's link to the others, and the worker of its progress (launch/message_progress.hpp).
class MailLink {
 public:
  MailLink(std::shared_ptr<Mail> mail, int rank, int world_size)
      : mail_(std::move(mail)), rank_(rank), world_size_(world_size) {}
  MailLink(const MailLink&) = delete;
  MailLink& operator=(const MailLink&) = delete;

  int rank() const noexcept { return rank_; }
  int world_size() const noexcept { return world_size_; }
  allfold::BlockPool& pool() noexcept { return pool_; }

  bool advance() {
    std::vector<Letter> letters = mail_->collect(rank_);
    for (Letter& letter : letters) deliver(std::move(letter));
    return resume() || !letters.empty();
  }

  void look(std::uint64_t late) {
    if (why_) return;
    if (const std::optional<Misfortune> told = mail_->misfortune()) return end(*told);
    for (const Expected* each : expected_) {
      if (each->over || each->from == allfold::any_source || !mail_->has_left(each->from)) continue;
      const int gone = each->from;
      advance();  // its last letters
      if (std::any_of(expected_.begin(), expected_.end(), [&](Expected* e) { return !e->over && e->from == gone; })) {
        fail({allfold::ErrorCode::peer, gone});
      }
      return;
    }
    if (late != allfold::no_call) fail({allfold::ErrorCode::timeout, awaited(late)});
  }

  template <class Over, class Late>
  void drive(Over&& over, Late&& late) {
    allfold::Clock::time_point look_at{};
    while (!over() && !why_) {
      if (!advance()) ::sched_yield();
      const allfold::Clock::time_point now = allfold::Clock::now();
      if (now < look_at) continue;
      look_at = now + std::chrono::milliseconds(1);
      look(late(now));
    }
  }

  void pause(int empty) const noexcept {
    if (empty > 0) ::sched_yield();
  }
  allfold::Duration arm(allfold::Duration timeout) const noexcept {
    return timeout;
  }  // the bell rings until it is heard
  void sleep(int descriptor, allfold::Duration timeout) const noexcept {
    pollfd wakers[] = {{mail_->bell(rank_), POLLIN, 0}, {descriptor, POLLIN, 0}};
    static_cast<void>(::poll(wakers, 2, allfold::Deadline::after(timeout).remaining_ms()));
  }

  bool failed() const noexcept { return failed_.load(std::memory_order_acquire); }

  [[noreturn]] void throw_failure(const allfold::Where& where, allfold::Duration, bool) const {
    const int source = why_->source;
    switch (why_->code) {
      case allfold::ErrorCode::usage:
        throw allfold::UsageError(where, {"the communicator was destroyed before the call was over"});
      case allfold::ErrorCode::timeout:
        throw allfold::TimeoutError(where, source, {"rank ", source, " did not arrive"});
      case allfold::ErrorCode::mismatch:
        throw allfold::MismatchError(where, source, {"rank ", source, " called something else"});
      default: throw allfold::PeerError(where, source, {"rank ", source, " has left"});
    }
  }

  /// For all ranks.
  void fail(Misfortune why) {
    mail_->fail(why);
    if (!why_) end(why);
  }
  /// For this rank alone, which leaves.
  void close() noexcept {
    mail_->leave(rank_);
    if (!why_) end({allfold::ErrorCode::usage, rank_});
  }

  // For endpoints.
  bool ended() const noexcept { return why_.has_value(); }
  void send(int to, const Subject& subject, const void* from, std::size_t bytes) {
    const char* const text = static_cast<const char*>(from);
    mail_->send(to, {rank_, subject, std::vector<char>(text, text + bytes)});
  }
  void expect(Expected& expected) {
    const auto found = std::find_if(early_.begin(), early_.end(), [&](const Letter& l) { return fits(l, expected); });
    if (found == early_.end()) return expected_.push_back(&expected);
    accept(*found, expected);
    early_.erase(found);
  }
  void forget(Expected& expected) noexcept {
    std::erase(expected_, &expected);
    std::erase(over_, &expected);
  }

 private:
  static bool fits(const Letter& letter, const Expected& expected) noexcept {
    const bool from = expected.from == letter.from || expected.from == allfold::any_source;
    return from && expected.subject == letter.subject;
  }

  void accept(const Letter& letter, Expected& expected) {
    expected.over = true;
    expected.source = letter.from;
    expected.ok = letter.text.size() == expected.bytes;
    if (!expected.ok) return mail_->fail({allfold::ErrorCode::mismatch, letter.from});  // told with the next look
    if (expected.bytes != 0) std::memcpy(expected.to, letter.text.data(), expected.bytes);
  }

  void deliver(Letter letter) {
    for (Expected* each : expected_) {
      if (each->over || !fits(letter, *each)) continue;
      accept(letter, *each);
      over_.push_back(each);
      return;
    }
    early_.push_back(std::move(letter));
  }

  bool resume() {
    bool any = false;
    while (!over_.empty()) {
      Expected& expected = *over_.front();
      forget(expected);
      any = true;
      if (expected.join != nullptr) std::exchange(expected.join, nullptr)->arrive().resume();
    }
    return any;
  }

  void end(Misfortune why) {
    why_ = why;
    failed_.store(true, std::memory_order_release);
    for (Expected* each : expected_) {
      if (!std::exchange(each->over, true)) over_.push_back(each);
    }
    resume();
  }

  int awaited(std::uint64_t call) const noexcept {
    for (const Expected* each : expected_) {
      if (!each->over && each->subject.call == call) return each->from;
    }
    return allfold::any_source;
  }

  allfold::BlockPool pool_;
  std::shared_ptr<Mail> mail_;
  int rank_;
  int world_size_;
  std::vector<Letter> early_;
  std::vector<Expected*> expected_;
  std::vector<Expected*> over_;  ///< whose coroutines are to be resumed
  std::optional<Misfortune> why_;
  std::atomic<bool> failed_{false};
};

/// A transfer by mail: sends are over at once.
class MailTransfer {
 public:
  MailTransfer() noexcept = default;
  explicit MailTransfer(bool ok) noexcept : ok_(ok) {}
  MailTransfer(MailLink& link, const Expected& expected)
      : link_(&link), expected_(std::make_unique<Expected>(expected)) {
    link.expect(*expected_);
  }
  MailTransfer(MailTransfer&&) noexcept = default;
  MailTransfer& operator=(MailTransfer&& other) noexcept {
    std::swap(link_, other.link_);
    std::swap(expected_, other.expected_);
    std::swap(ok_, other.ok_);
    return *this;
  }
  ~MailTransfer() {
    if (expected_) link_->forget(*expected_);
  }

  bool over() const noexcept { return !expected_ || expected_->over; }
  bool ok() const noexcept { return expected_ ? expected_->ok : ok_; }
  int source() const noexcept { return expected_->source; }
  void watch(allfold::Join& join) noexcept { expected_->join = &join; }

 private:
  MailLink* link_ = nullptr;
  std::unique_ptr<Expected> expected_;
  bool ok_ = true;
};
static_assert(allfold::transfer<MailTransfer>);

/// Awaits what is done already.
struct Done {
  bool ok;

  bool await_ready() const noexcept { return true; }
  void await_suspend(std::coroutine_handle<>) const noexcept {}
  bool await_resume() const noexcept { return ok; }
};

/// One call by mail; see algo/message/endpoint.hpp.
class MailEndpoint {
 public:
  using transfer_type = MailTransfer;

  MailEndpoint(MailLink& link, const allfold::CollectiveId& id) noexcept
      : MailEndpoint(link, id.operation,
                     allfold::hash_combine(static_cast<std::uint64_t>(id.channel) << 32 | id.sequence, id.record)) {}
  MailEndpoint(MailLink& link, const allfold::MessageId& id) noexcept
      : MailEndpoint(link, id.operation, allfold::hash_combine(~static_cast<std::uint64_t>(id.tag), id.type)) {}

  int rank() const noexcept { return link_->rank(); }
  int world_size() const noexcept { return link_->world_size(); }

  MailTransfer send(int peer, int step, const void* from, std::size_t bytes) {
    if (!link_->ended()) link_->send(peer, {call_, step}, from, bytes);
    return MailTransfer(!link_->ended());
  }
  MailTransfer receive(int peer, int step, void* to, std::size_t bytes) {
    if (link_->ended()) return MailTransfer(false);
    return MailTransfer(*link_, {.from = peer, .subject = {call_, step}, .to = to, .bytes = bytes});
  }

  Done copy(void* to, const void* from, std::size_t bytes) noexcept {
    if (!link_->ended() && bytes != 0 && to != from) std::memmove(to, from, bytes);
    return {!link_->ended()};
  }
  Done fold(const allfold::MessageReduction& reduction, allfold::FoldKind kind, std::span<const void* const> operands,
            void* to, std::size_t n) {
    if (!link_->ended()) {
      reduction.fold(reduction.reduction, kind, operands.data(), static_cast<int>(operands.size()), to, n,
                     world_size());
    }
    return {!link_->ended()};
  }

  allfold::Block scratch(std::size_t bytes) { return allfold::Block(link_->pool(), bytes); }
  allfold::BlockPool& frames() noexcept { return link_->pool(); }

  std::uint64_t tag() const noexcept { return call_; }
  allfold::Where where() const { return allfold::Where(operation_, rank(), world_size()); }
  void set_timeout(allfold::Duration) noexcept {}
  void abandon() noexcept { link_->fail({allfold::ErrorCode::peer, rank()}); }
  void mismatch(int source) noexcept { link_->fail({allfold::ErrorCode::mismatch, source}); }
  std::exception_ptr failure() const noexcept {
    try {
      link_->throw_failure(where(), {}, false);
    } catch (...) {
      return std::current_exception();
    }
  }

 private:
  MailEndpoint(MailLink& link, std::string_view operation, std::uint64_t call) noexcept
      : link_(&link), operation_(operation), call_(call) {}

  MailLink* link_;
  std::string_view operation_;
  std::uint64_t call_;
};
static_assert(allfold::endpoint<MailEndpoint>);

/// The policy.
template <template <class> class Progress>
class BasicMailTransport {
 public:
  using policy_category = allfold::transport_tag;
  using endpoint_type = MailEndpoint;
  using progress_type = Progress<MailLink>;
  static constexpr std::string_view name = "mail";
  static constexpr int max_world_size = 64;
  static constexpr int max_channels = 16;

  allfold::Identity identity() const { return allfold::host_identity(); }
  std::string refusal(std::span<const allfold::Identity> ranks) const {
    for (const allfold::Identity& each : ranks) {
      if (!each.same_process(ranks[0])) return "ranks by mail are threads of one process";
    }
    return {};
  }

  void connect(allfold::Meeting& meeting, std::span<const allfold::Identity>, const allfold::MessageOptions&) {
    std::shared_ptr<Mail> mail;
    if (meeting.rank() == 0) mail = std::make_shared<Mail>(meeting.world_size());
    const auto of_rank_0 = meeting.all_gather("mail", &mail)[0];
    if (meeting.rank() != 0) mail = *of_rank_0;
    meeting.barrier("mail that all have");
    desk_ = allfold::make_progressing<Desk>(std::move(mail), meeting.rank(), meeting.world_size());
  }

  progress_type& progress() noexcept { return desk_->progress; }
  MailLink& link() noexcept { return desk_->link; }
  void leave() noexcept {
    if (desk_) progress().run([this] { link().close(); });
  }

 private:
  struct Desk {
    Desk(std::shared_ptr<Mail> mail, int rank, int world_size)
        : link(std::move(mail), rank, world_size), progress(link) {}

    MailLink link;
    progress_type progress;
  };

  std::shared_ptr<Desk> desk_;
};

using MailTransport = BasicMailTransport<allfold::CallerProgress>;
using MailThreadTransport = BasicMailTransport<allfold::ThreadProgress>;
static_assert(allfold::message_transport_policy<MailTransport>);
static_assert(allfold::message_transport_policy<MailThreadTransport>);

}  // namespace allfold_test
