// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <allfold/algo/message/agreement.hpp>
#include <allfold/algo/message/all_reduce.hpp>
#include <allfold/algo/message/barrier.hpp>
#include <allfold/algo/message/send_receive.hpp>
#include <allfold/arguments.hpp>
#include <allfold/communicator/health_check.hpp>
#include <allfold/communicator/message_agreement.hpp>
#include <allfold/communicator/message_arguments.hpp>
#include <allfold/communicator/own_messages.hpp>
#include <allfold/communicator/traced_call.hpp>
#include <allfold/exec/host_reduction.hpp>
#include <allfold/memory/message_record.hpp>
#include <allfold/op/operators.hpp>
#include <allfold/op/reduction.hpp>
#include <allfold/policy/message_options.hpp>
#include <allfold/policy/selector.hpp>
#include <allfold/policy/topology.hpp>
#include <allfold/policy/tracer.hpp>
#include <allfold/policy/transport.hpp>
#include <allfold/rendezvous.hpp>
#include <allfold/work.hpp>

namespace allfold {

/// What is behind a MessageCommunicator: the policies' objects, what numbers calls, and how a call begins.
template <store_policy Store, message_transport_policy Transport, message_selector_policy Selector,
          tracer_policy Tracer>
class MessageSession {
  using E = typename Transport::endpoint_type;
  using Link = std::remove_reference_t<decltype(std::declval<Transport&>().link())>;

 public:
  /// Whether the transport takes memory of several kinds, so that each call's has to be found out.
  static constexpr bool has_memory_kinds =
      requires(Link& link, const Where& where, std::span<const NamedMemory> all) { link.kind_of(where, all); };

  template <class... Arguments>
  static std::shared_ptr<MessageSession> create(const Environment& environment, Arguments&&... arguments) {
    static_assert(
        ((known_argument<std::remove_cvref_t<Arguments>> || topology_policy<std::remove_cvref_t<Arguments>>) && ...),
        "allfold: create takes an Environment, then Options, MessageOptions and objects of the communicator's own "
        "policy types; name the policy among the template arguments of Communicator, or remove the argument");
    const Options options = detail::take_or_default<Options>(arguments...);
    const MessageOptions message_options = detail::take_or_default<MessageOptions>(arguments...).with_environment();
    check_environment(environment, Transport::name, Transport::max_world_size);
    const Where where("create", environment.rank, environment.world_size);
    check_options(where, options);
    if (options.channels > Transport::max_channels) {
      throw UsageError(where, {"Options::channels is ", options.channels, "; expected 1 to ", Transport::max_channels,
                               ", which is what the transport \"", Transport::name, "\" tells apart"});
    }
    const Deadline deadline = Deadline::after(options.rendezvous_timeout);
    auto session = std::shared_ptr<MessageSession>(new MessageSession(
        environment, options, message_options,
        detail::take_store<Store>(environment, deadline, std::forward<Arguments>(arguments)...),
        detail::take_or_default<Transport>(arguments...), detail::take_or_default<Selector>(arguments...),
        detail::take_or_default<Tracer>(arguments...)));
    session->meet(environment, deadline);
    if (message_options.health_check) {
      run_health_check(session->where("health check"), message_options.health_check_timeout,
                       [session] { session->check_health(); });
    }
    return communicator_share(std::move(session));
  }
  MessageSession(const MessageSession&) = delete;
  MessageSession& operator=(const MessageSession&) = delete;
  ~MessageSession() { transport_.leave(); }

  int rank() const noexcept { return rank_; }
  int world_size() const noexcept { return world_size_; }
  const Options& options() const noexcept { return options_; }
  const MessageOptions& message_options() const noexcept { return message_options_; }
  Transport& transport() noexcept { return transport_; }
  const Selector& selector() const noexcept { return selector_; }
  Selector& selector() noexcept { return selector_; }
  Tracer& tracer() noexcept { return tracer_; }

  Where where(std::string_view operation, SourceLocation location = SourceLocation::current()) const {
    return Where(operation, rank_, world_size_, location);
  }

  /// Refuses to start on a communicator that has ended.
  void enter(const Where& where) {
    if (transport_.link().failed()) transport_.link().throw_failure(where, {}, true);
  }

  MessageQuery query(std::size_t bytes) const noexcept { return {.bytes = bytes, .world_size = world_size_}; }
  template <class Op, class T>
  MessageQuery query(std::size_t count, const CallOptions& options) const noexcept {
    MessageQuery query{.bytes = count * sizeof(T), .world_size = world_size_, .reproducible = !options.fast};
    query.commutes = detail::operator_commutes<Op>();
    if constexpr (reduction_for<Op, T>) {
      query.widens = sizeof(typename Reduction<Op, T>::accumulator) > sizeof(T);
    }
    return query;
  }

  /// Begins `body(endpoint, source) -> Task<bool>` as a collective.
  template <class Body>
  Work collective(const Where& where, MessageRecord record, const CallOptions& options, const Traffic& traffic,
                  Body body) {
    enter(where);
    find_kind(where, record, traffic);
    if (options.channel < 0 || options.channel >= options_.channels) {
      throw UsageError(where, {"channel ", options.channel, " does not exist; expected 0 to ", options_.channels - 1,
                               "; ask for more with Options::channels"});
    }
    const Duration timeout = timeout_of(where, options, options_);  // before the call counts
    check_wait(where, record.operation, options);
    const std::uint32_t sequence = ++sequences_[static_cast<std::size_t>(options.channel)];
    const CollectiveId id{where.operation(), options.channel, sequence,
                          message_options_.check_calls ? 0 : record.message_hash()};
    if (!message_options_.check_calls) {
      return begin(where, E(link(), id), sequence, record, options, timeout, traffic, body);
    }
    message::Claim claim{.hash = record.hash(), .memory = static_cast<std::uint64_t>(record.memory), .text = {}};
    copy_name(claim.text, record.text());
    return begin(where, E(link(), id), sequence, record, options, timeout, traffic,
                 [claim, where, body = std::move(body)](E& e, int& source) {
                   return message::after_agreement(e, claim, where, body(e, source));
                 });
  }

  /// Before a reduction is called.
  template <class Reduction>
  void prepare(const Where& where) {
    if constexpr (requires { E::template prepare<Reduction>(link(), where); }) {
      E::template prepare<Reduction>(link(), where);
    }
  }

  /// Likewise as a message to `peer`, or from it.
  template <class Body>
  Work message(const Where& where, MessageRecord record, int peer, const CallOptions& options, const Traffic& traffic,
               Body body) {
    enter(where);
    find_kind(where, record, traffic);
    const Duration timeout = timeout_of(where, options, options_);
    check_wait(where, record.operation, options);
    const bool to_itself = record.operation == Operation::send && peer == rank_;
    if (to_itself) own_messages_.expect_receive(where, options.tag);
    const MessageId id{where.operation(), options.tag, record.message_type()};
    Work work = begin(where, E(link(), id), ++messages_, record, options, timeout, traffic, std::move(body), peer);
    if (to_itself || (record.operation == Operation::receive && (peer == rank_ || peer == any_source))) {
      own_messages_.add(work, options.tag, to_itself);
    }
    return work;
  }

 private:
  template <class A>
  static constexpr bool known_argument =
      std::is_same_v<A, Options> || std::is_same_v<A, MessageOptions> || std::is_same_v<A, Store> ||
      std::is_same_v<A, Transport> || std::is_same_v<A, Selector> || std::is_same_v<A, Tracer>;

  MessageSession(const Environment& environment, const Options& options, const MessageOptions& message_options,
                 StoreHolder<Store> store, Transport transport, Selector selector, Tracer tracer)
      : rank_(environment.rank),
        world_size_(environment.world_size),
        options_(options),
        message_options_(message_options),
        sequences_(static_cast<std::size_t>(options.channels)),
        store_(std::move(store)),
        selector_(std::move(selector)),
        tracer_(std::move(tracer)),
        transport_(std::move(transport)) {}

  /// What communicators have of the session: with the last of them all calls end. Who waits for a Work meanwhile has a
  /// share of the session itself, so that progress and tracer are there until he has come out.
  static std::shared_ptr<MessageSession> communicator_share(std::shared_ptr<MessageSession> session) {
    MessageSession* const that = session.get();
    that->progress_ = std::shared_ptr<MessageProgress>(session, &that->transport_.progress());
    return {that, [session = std::move(session)](MessageSession* left) { left->transport_.leave(); }};
  }

  Link& link() noexcept { return transport_.link(); }

  void find_kind(const Where& where, MessageRecord& record, const Traffic& traffic) {
    if constexpr (has_memory_kinds) record.memory = link().kind_of(where, named_memory(traffic));
  }

  void meet(const Environment& environment, Deadline deadline) {
    {
      Rendezvous rendezvous(*store_.used, environment, deadline);
      in_meeting(where("create"), rendezvous.gather(), deadline, store_.own != nullptr && rank_ == 0,
                 [&](Meeting& meeting) { find_peers(meeting); });
    }
    // Once more without the store: messages arrive, and a rank that serves it cannot go away before the others have
    // done with it.
    const CallOptions patient{.timeout = deadline.remaining() + std::chrono::milliseconds(1)};
    collective(where("create"), {.operation = Operation::barrier}, patient, {}, [](E& e, int&) {
      return message::barrier_dissemination(e);
    }).wait();
  }

  /// A barrier and a small all-reduce, of what is known beforehand.
  void check_health() {
    const Where where = this->where("health check");
    const CallOptions within{.timeout = message_options_.health_check_timeout};
    collective(where, {.operation = Operation::barrier}, within, {}, [](E& e, int&) {
      return message::barrier_dissemination(e);
    }).wait();
    const Reduction<Sum, int> sum{};
    const int one = 1;
    int ranks = 0;
    collective(where, {.operation = Operation::all_reduce, .count = 1}, within, {}, [&](E& e, int&) {
      return message::all_reduce_gathered(e, host_reduction(sum), &one, &ranks, 1);
    }).wait();
    if (ranks == world_size_) return;
    throw PeerError(where, -1,
                    {"ones of all ranks add up to ", ranks, "; expected ", world_size_,
                     "; messages arrive damaged, see whether all ranks run the same build"});
  }

  void find_peers(Meeting& meeting) {
    open_tracer(tracer_, rank_, world_size_);
    Introduction introduction{.identity = transport_.identity(),
                              .buffer_bytes = options_.buffer_bytes,
                              .world_size = world_size_,
                              .channels = options_.channels,
                              .blocks = options_.blocks,
                              .lanes = options_.lanes};
    copy_name(introduction.transport, Transport::name);
    const std::vector<Identity> identities = introduce(meeting, introduction);
    if (const std::string refusal = transport_.refusal(identities); !refusal.empty()) {
      throw UsageError(meeting.where(), {refusal});
    }
    check_agreement(meeting, message_options_);
    transport_.connect(meeting, identities, message_options_);
  }

  bool is_awaited(Operation operation, const CallOptions& options) const noexcept {
    return !options.async || message_options_.blocking_wait.contains(operation);
  }

  void check_wait(const Where& where, Operation operation, const CallOptions& options) {
    if (!is_awaited(operation, options) || transport_.progress().may_wait()) return;
    throw UsageError(where, {"a coroutine that goes on where progress is made would wait for itself; expected an ",
                             "operation that is awaited there; give it {.async = true} and use co_await"});
  }

  template <class Body>
  Work begin(const Where& where, E endpoint, std::uint32_t sequence, const MessageRecord& record,
             const CallOptions& options, Duration timeout, const Traffic& traffic, Body body, int peer = -1) {
    endpoint.set_timeout(timeout);
    if constexpr (has_memory_kinds) endpoint.take_input(where, record.memory, options.stream);
    const bool waits = is_awaited(record.operation, options);
    const auto post = [&](auto report) {
      using Call = MessageCall<E, Body, decltype(report)>;
      OperationRef operation(
          new Call(sequence, traffic.result, std::move(endpoint), std::move(body), std::move(report)));
      transport_.progress().post(operation, timeout, waits);
      if (waits) transport_.progress().wait(*operation, Deadline(Clock::time_point::max()));
      return Work(std::move(operation), waits ? std::weak_ptr<MessageProgress>() : progress_, where,
                  Transport::progress_type::has_thread, message_options_.futures);
    };
    Work work = [&] {
      if constexpr (Tracer::enabled) {
        TraceEvent event = trace_event(where, record, traffic);
        const bool is_message = record.operation == Operation::send || record.operation == Operation::receive;
        event.peer = peer;
        event.tag = is_message ? options.tag : -1;
        event.channel = is_message ? -1 : options.channel;
        event.sequence = sequence;
        return post(TracedCall<Tracer>(tracer_, event));
      } else {
        return post(NoReport{});
      }
    }();
    if (waits) work.wait();  // is over: throws what it ended with
    return work;
  }

  int rank_;
  int world_size_;
  Options options_;
  MessageOptions message_options_;
  std::vector<std::uint32_t> sequences_;  ///< [channel]
  std::uint32_t messages_ = 0;
  StoreHolder<Store> store_;
  Selector selector_;
  Tracer tracer_;
  Transport transport_;  ///< it ends before the tracer that its operations tell
  OwnMessages own_messages_;
  std::weak_ptr<MessageProgress> progress_;  ///< the transport's, with a share of this
};

}  // namespace allfold
