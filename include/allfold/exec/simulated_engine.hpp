// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include <allfold/base/concat.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/hash.hpp>
#include <allfold/exec/network_model.hpp>
#include <allfold/exec/simulated_message.hpp>
#include <allfold/memory/block_pool.hpp>

namespace allfold::detail {

/// The events of a simulated network: what happens to messages, when, and whom it resumes.
class SimulatedEngine {
 public:
  /// In picoseconds: whole numbers, so that sums do not depend on their order.
  using Time = std::int64_t;
  using Operation = SimulatedOperation;
  using Message = SimulatedMessage;
  using Work = SimulatedWork;

  struct Rank {
    Time clock = 0;  ///< when it is through with what it has begun
    Time out = 0;    ///< when its port is free, in either direction
    Time in = 0;
    Time side = 0;               ///< when what works beside it is free
    std::uint64_t messages = 0;  ///< sent
    std::uint64_t bytes = 0;
    bool absent = false;
  };

  SimulatedEngine(int world_size, const NetworkModel& model, Disturbance disturbance, bool payload)
      : model_(model),
        disturbance_(std::move(disturbance)),
        ranks_(index_of(world_size)),
        cores_(static_cast<std::size_t>(model.cores)),
        payload_(payload) {
    for (const int r : disturbance_.absent) rank(r).absent = true;
  }

  int world_size() const noexcept { return static_cast<int>(ranks_.size()); }
  bool payload() const noexcept { return payload_; }
  const NetworkModel& model() const noexcept { return model_; }
  BlockPool& pool() noexcept { return pool_; }
  Rank& rank(int r) noexcept { return ranks_[index_of(r)]; }
  const std::vector<Rank>& ranks() const noexcept { return ranks_; }
  bool failed() const noexcept { return failure_.has_value(); }
  const std::optional<SimulatedFailure>& failure() const noexcept { return failure_; }

  Operation* send(const MessageKey& key, const void* from, std::size_t bytes) {
    check_peer(key.source, key.target, key.step);
    Operation* const operation = begin_operation(key, nullptr, bytes, true);
    if (operation->over) return operation;
    Rank& sender = rank(key.source);
    ++sender.messages;
    sender.bytes += bytes;
    const bool is_long = bytes > model_.eager_bytes;
    occupy(key.source, sender.clock, picoseconds(model_.overhead_us));
    const Time ready = sender.clock;  // the first byte goes now, the others as they are copied
    if (!is_long) occupy(key.source, ready, send_time(bytes));

    Message* const message = messages_.take();
    message->key = key;
    message->bytes = bytes;
    message->from = from;
    if (is_long) {
      message->send = operation;
      if (!is_cut(key.source, key.target)) schedule(sender.clock + wire_time(), Happening::announced, message);
      return operation;
    }
    if (payload_ && bytes != 0) {
      message->payload = Block(pool_, bytes);
      std::memcpy(message->payload.data(), from, bytes);
    }
    depart(message, ready);
    end_operation(operation, true);
    return operation;
  }

  Operation* receive(const MessageKey& key, void* to, std::size_t bytes) {
    check_peer(key.target, key.source, key.step);
    Operation* const operation = begin_operation(key, to, bytes, false);
    if (operation->over) return operation;
    if (Message* const message = waiting_messages_.take(key)) {
      meet(message, operation, rank(key.target).clock);
    } else if (!waiting_receives_.put(operation)) {
      refuse_twin(key);
    }
    return operation;
  }

  /// Copies or folds. Null: it is done already, or the collective has failed.
  Operation* compute(int r, const Work& asked) {
    if (failed()) return nullptr;
    const double us_per_byte = asked.reduction.fold == nullptr ? model_.copy_us_per_byte : model_.fold_us_per_byte;
    const Time takes = picoseconds(static_cast<double>(asked.bytes()) * us_per_byte);
    if (!model_.offloads) {
      if (payload_) asked.perform(world_size());
      occupy(r, rank(r).clock, takes);
      return nullptr;
    }
    Operation* const operation = begin_operation({r, r, 0, 0, 0}, nullptr, 0, true);
    Work* const work = works_.take();
    *work = asked;
    work->in_use = true;
    work->operation = operation;
    rank(r).side = std::max(rank(r).side, rank(r).clock) + takes;
    schedule(rank(r).side, Happening::computed, nullptr, 0, work);
    return operation;
  }

  /// Nobody asks for its outcome any more.
  void drop(Operation* operation) {
    operation->dropped = true;
    operation->join = nullptr;
    if (operation->over) operations_.give(operation);
  }

  /// Begins task t, of rank t % P, for t < `tasks`, by `begin(t)`, and goes on until all are through, or have given up,
  /// and nothing is in flight.
  template <class Begin>
  void run(std::size_t tasks, Begin&& begin) {
    for (std::size_t task = 0; task < tasks; ++task) {
      if (ranks_[task % ranks_.size()].absent) continue;
      schedule(random_time(disturbance_.start_us), Happening::begins, nullptr, task);
      ++unfinished_;
    }
    const Time deadline = picoseconds(disturbance_.deadline_us);
    while (unfinished_ > 0 || !events_.empty()) {
      if (events_.empty() || events_.top().at > deadline) {
        now_ = events_.empty() ? now_ : deadline;
        give_up();
      } else {
        const Event event = events_.top();
        events_.pop();
        now_ = event.at;
        if (event.happening == Happening::begins) {
          Rank& beginning = ranks_[event.task % ranks_.size()];
          beginning.clock = std::max(beginning.clock, now_);
          begin(event.task);
        } else {
          happen(event);
        }
      }
      resume_ready();
    }
    check_nothing_left();
  }
  /// A task that was begun is through.
  void finish_one() noexcept { --unfinished_; }

  /// Nothing goes on any more: what is in flight ends with false.
  ALLFOLD_COLD void fail(SimulatedFailure failure) {
    failure_ = std::move(failure);
    std::priority_queue<Event> begins;  // they get false at their first transfer
    for (; !events_.empty(); events_.pop()) {
      Event event = events_.top();
      event.at = now_;
      if (event.happening == Happening::begins) begins.push(event);
    }
    events_ = std::move(begins);
    waiting_messages_.clear();
    waiting_receives_.clear();
    messages_.clear();
    works_.clear();
    operations_.for_each([this](Operation& operation) {
      if (!operation.over) end_operation(&operation, false);
    });
  }

 private:
  enum class Happening : unsigned char {
    begins,     ///< a task
    announced,  ///< a long message: its target learns of it
    granted,    ///< its sender learns that the target is ready
    left,       ///< it has left the sender, whose buffer is free again
    heads_in,   ///< any message: its first byte reaches the target
    arrived,    ///< all of it has
    computed,   ///< a copy or a fold is due
  };
  struct Core {
    Time free = 0;
    int last = -1;  ///< the rank that had it
  };
  struct Event {
    Time at;
    std::uint64_t serial;
    Happening happening;
    Message* message;
    std::size_t task;
    Work* work;

    friend bool operator<(const Event& a, const Event& b) noexcept {  // the earliest is the greatest
      return a.at != b.at ? a.at > b.at : a.serial > b.serial;
    }
  };

  static std::size_t index_of(int rank) noexcept { return static_cast<std::size_t>(rank); }
  static Time picoseconds(double us) noexcept {
    const double ps = us * 1e6;
    return ps >= 9e18 ? std::numeric_limits<Time>::max() : static_cast<Time>(std::llround(ps));
  }
  /// How long the bytes of a message take through a port, and how long it is until the port takes the next.
  Time byte_time(std::size_t bytes) const noexcept {
    return picoseconds(static_cast<double>(bytes) * (is_shared(bytes) ? model_.long_us_per_byte : model_.us_per_byte));
  }
  bool is_shared(std::size_t bytes) const noexcept { return bytes > model_.eager_bytes && model_.long_us_per_byte > 0; }
  /// When the port begins with a message in the direction `way`.
  Time take_port(Time at, Time& way, Time& other, std::size_t bytes) const noexcept {
    const bool shared = is_shared(bytes);
    const Time begin = std::max(at, shared ? std::max(way, other) : way);
    way = begin + port_time(bytes);
    if (shared) other = way;
    return begin;
  }
  Time send_time(std::size_t bytes) const noexcept {
    return picoseconds(static_cast<double>(bytes) * model_.send_us_per_byte);
  }
  Time port_time(std::size_t bytes) const noexcept { return std::max(picoseconds(model_.gap_us), byte_time(bytes)); }
  Time random_time(double up_to_us) noexcept {
    if (up_to_us <= 0) return 0;
    const std::uint64_t word = hash_mix(disturbance_.seed + 0x9e3779b97f4a7c15ULL * ++random_);
    return static_cast<Time>(word % static_cast<std::uint64_t>(picoseconds(up_to_us) + 1));
  }
  Time wire_time() noexcept { return picoseconds(model_.latency_us) + random_time(disturbance_.jitter_us); }

  bool is_cut(int a, int b) const noexcept {
    return std::any_of(disturbance_.cut.begin(), disturbance_.cut.end(), [&](const std::pair<int, int>& link) {
      return link == std::pair(a, b) || link == std::pair(b, a);
    });
  }

  /// The rank works for so long from `at` on, or from when a core is free: the one that it had before, if no other is
  /// free sooner.
  void occupy(int r, Time at, Time takes) {
    if (cores_.empty()) {
      rank(r).clock = at + takes;
      return;
    }
    if (takes == 0) {
      rank(r).clock = at;
      return;
    }
    Core* core = nullptr;
    Time start = 0;
    for (Core& each : cores_) {
      const Time from = std::max(at, each.free + (each.last == r || each.last < 0 ? 0 : picoseconds(model_.turn_us)));
      if (core != nullptr && from >= start) continue;
      core = &each;
      start = from;
    }
    core->free = start + takes;
    core->last = r;
    rank(r).clock = core->free;
  }

  void schedule(Time at, Happening happening, Message* message, std::size_t task = 0, Work* work = nullptr) {
    events_.push({at, ++serial_, happening, message, task, work});
  }

  Operation* begin_operation(const MessageKey& key, void* to, std::size_t bytes, bool is_send) {
    Operation* const operation = operations_.take();
    operation->key = key;
    operation->to = to;
    operation->bytes = bytes;
    operation->is_send = is_send;
    operation->over = failed();
    return operation;
  }

  void end_operation(Operation* operation, bool ok) {
    operation->over = true;
    operation->ok = ok;
    if (operation->join != nullptr) ready_.push_back(operation->join->arrive());
    if (operation->dropped) operations_.give(operation);
  }

  /// The message goes through its sender's port; returns when it will have.
  Time depart(Message* message, Time at) {
    Rank& sender = rank(message->key.source);
    const std::size_t bytes = message->bytes;
    const Time begin = take_port(at, sender.out, sender.in, bytes);
    if (is_cut(message->key.source, message->key.target)) {
      messages_.give(message);
    } else {
      schedule(begin + wire_time(), Happening::heads_in, message);
    }
    return begin + byte_time(bytes);
  }

  /// The message, of which the target knows, and the receive that it is for.
  void meet(Message* message, Operation* receive, Time at) {
    if (message->bytes != receive->bytes) return differ(message->key, message->bytes, receive);
    message->receive = receive;
    if (message->send != nullptr) return schedule(at + wire_time(), Happening::granted, message);
    if (payload_ && message->bytes != 0) std::memcpy(receive->to, message->payload.data(), message->bytes);
    finish_receive(message);
  }

  void finish_receive(Message* message) {
    Rank& target = rank(message->key.target);
    const double us = model_.overhead_us + static_cast<double>(message->bytes) * model_.receive_us_per_byte;
    occupy(message->key.target, std::max(target.clock, now_), picoseconds(us));
    end_operation(message->receive, true);
    messages_.give(message);
  }

  void happen(const Event& event) {
    Message* const message = event.message;
    switch (event.happening) {
      case Happening::begins: break;
      case Happening::computed: {
        // Not before it is due: who touches the memory sooner shows.
        if (payload_) event.work->perform(world_size());
        Rank& asker = rank(event.work->operation->rank());
        asker.clock = std::max(asker.clock, now_);
        end_operation(event.work->operation, true);
        works_.give(event.work);
        break;
      }
      case Happening::announced: look_for_receive(message); break;
      case Happening::granted: {
        Rank& sender = rank(message->key.source);
        schedule(depart(message, now_), Happening::left, message);
        occupy(message->key.source, std::max(sender.clock, now_), send_time(message->bytes));
        break;
      }
      case Happening::left: {
        // What the sender writes there next is not what the target gets: the bytes go now.
        if (payload_) std::memcpy(message->receive->to, message->from, message->bytes);
        Rank& sender = rank(message->key.source);
        sender.clock = std::max(sender.clock, now_);
        end_operation(message->send, true);
        break;
      }
      case Happening::heads_in: {
        Rank& target = rank(message->key.target);
        const Time begin = take_port(now_, target.in, target.out, message->bytes);
        schedule(begin + byte_time(message->bytes), Happening::arrived, message);
        break;
      }
      case Happening::arrived:
        if (message->receive != nullptr) {
          finish_receive(message);
        } else {
          look_for_receive(message);
        }
        break;
    }
  }

  void look_for_receive(Message* message) {
    if (Operation* const receive = waiting_receives_.take(message->key)) {
      meet(message, receive, now_);
    } else if (!waiting_messages_.put(message)) {
      refuse_twin(message->key);
    }
  }

  void resume_ready() {
    while (!ready_.empty()) {
      resuming_.swap(ready_);
      for (const std::coroutine_handle<> waiter : resuming_) waiter.resume();
      resuming_.clear();
    }
  }

  ALLFOLD_COLD Where where(int r) const { return {"simulated collective", r, world_size()}; }

  ALLFOLD_COLD void check_peer(int r, int peer, int step) const {
    if (peer >= 0 && peer < world_size() && peer != r && step >= 0 && step < 0x10000) return;
    throw UsageError(where(r), {"a message of step ", step, " with rank ", peer, "; expected another rank of ",
                                world_size(), " and a step below 65536"});
  }

  [[noreturn]] ALLFOLD_COLD void refuse_twin(const MessageKey& key) const {
    throw UsageError(where(key.target), {"two messages of rank ", key.source, " at step ", key.step,
                                         " cannot be told apart; expected a step of its own for each"});
  }

  ALLFOLD_COLD void check_nothing_left() {
    if (failed()) return;
    if (const Message* const message = waiting_messages_.any()) {
      throw UsageError(where(message->key.source), {"its message to rank ", message->key.target, " at step ",
                                                    message->key.step, " was never received; expected a receive"});
    }
    operations_.for_each([this](const Operation& operation) {
      if (operation.over) return;
      throw UsageError(where(operation.rank()),
                       {"it is through and did not await its message of step ", operation.key.step, " with rank ",
                        operation.peer(), "; expected it to await all that it started"});
    });
  }

  ALLFOLD_COLD void differ(const MessageKey& key, std::size_t sent, Operation* receive) {
    const std::size_t expected = receive->bytes;
    fail({.code = ErrorCode::mismatch,
          .source = key.source,
          .by = key.target,
          .world_size = world_size(),
          .what = concat({"rank ", key.source, " sent ", sent, " bytes at step ", key.step, "; expected ", expected,
                          "; every rank must make the same calls in the same order"})});
  }

  /// Why a rank waits in vain, the least telling reason first.
  enum class Vain : unsigned char { unknown, for_one_another, for_none, link_is_cut, peer_is_absent };

  /// Nothing happens any more, or too late: blames the peer of the transfer that tells most.
  ALLFOLD_COLD void give_up() {
    if (failed()) {
      throw UsageError("simulated collective",
                       {"a coroutine waits on after a failure; expected it to return once it gets false"});
    }
    std::vector<bool> waits(ranks_.size());
    operations_.for_each([&](const Operation& operation) {
      if (!operation.over && operation.join != nullptr) waits[index_of(operation.rank())] = true;
    });
    Vain why = Vain::unknown;
    const Operation* awaited = nullptr;
    operations_.for_each([&](const Operation& operation) {
      if (operation.over || operation.join == nullptr) return;
      const Vain vain = rank(operation.peer()).absent                ? Vain::peer_is_absent
                        : is_cut(operation.rank(), operation.peer()) ? Vain::link_is_cut
                        : !waits[index_of(operation.peer())]         ? Vain::for_none
                                                                     : Vain::for_one_another;
      if (vain <= why) return;
      why = vain;
      awaited = &operation;
    });
    if (awaited == nullptr) {
      throw UsageError("simulated collective",
                       {"the ranks wait, but for no transfer; expected a coroutine to await transfers alone"});
    }
    const char* const text = why == Vain::peer_is_absent ? "it never came"
                             : why == Vain::link_is_cut  ? "no message passes between the two"
                             : why == Vain::for_none     ? "it does not take part in that"
                                                         : "the ranks wait for one another";
    const int source = awaited->peer();
    fail({.code = why == Vain::link_is_cut ? ErrorCode::peer : ErrorCode::timeout,
          .source = source,
          .by = awaited->rank(),
          .world_size = world_size(),
          .what = concat({"rank ", source, " did not arrive in time at step ", awaited->key.step, ": ", text,
                          "; try a longer deadline, or see what keeps rank ", source})});
  }

  NetworkModel model_;
  Disturbance disturbance_;
  BlockPool pool_;
  std::vector<Rank> ranks_;
  std::vector<Core> cores_;
  bool payload_;
  std::priority_queue<Event> events_;
  std::vector<std::coroutine_handle<>> ready_, resuming_;
  Recycled<Operation> operations_;
  Recycled<Message> messages_;
  Recycled<Work> works_;
  MatchTable<Operation> waiting_receives_;
  MatchTable<Message> waiting_messages_;
  std::optional<SimulatedFailure> failure_;
  std::size_t unfinished_ = 0;
  Time now_ = 0;
  std::uint64_t serial_ = 0;
  std::uint64_t random_ = 0;
};

}  // namespace allfold::detail
