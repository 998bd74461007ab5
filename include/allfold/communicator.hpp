// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <allfold/algo/symmetric/all_reduce.hpp>
#include <allfold/arguments.hpp>
#include <allfold/attempt.hpp>
#include <allfold/failure_report.hpp>
#include <allfold/op/reduction.hpp>
#include <allfold/policy/pick.hpp>
#include <allfold/policy/tracer.hpp>
#include <allfold/rendezvous.hpp>
#include <allfold/session.hpp>
#include <allfold/symmetric_buffer.hpp>

namespace allfold {

/// Collectives among the ranks of a job. `Communicator<Policies...>` (allfold.hpp) is how to name one.
///
/// One thread uses a communicator at a time. Every rank makes the same calls in the same order on a channel. A call
/// that fails ends the communicator on every rank: each later call says why, until it is created again. Destroying it
/// is no collective; a peer that still waits for this rank gets PeerError, or on a GPU TimeoutError at its deadline.
template <store_policy Store, symmetric_transport_policy Transport, topology_policy Topology,
          symmetric_selector_policy Selector, tracer_policy Tracer>
class BasicCommunicator {
 public:
  using allocation_type = typename Transport::allocation_type;
  template <class T>
  using buffer_type = SymmetricBuffer<T, allocation_type>;

  /// Meets the other ranks. `arguments`, in any order, each optional: an Options, and objects of the policies' types;
  /// a store is taken by reference (then it must outlive the communicator) or by value.
  /// Collective: every rank, with equal options.   Blocks until all ranks are there, or Options::rendezvous_timeout.
  /// @throws UsageError, TimeoutError that names who did not come, MismatchError, PeerError, SystemError.
  template <class... Arguments>
  static BasicCommunicator create(const Environment& environment, Arguments&&... arguments) {
    static_assert(
        (known_argument<std::remove_cvref_t<Arguments>> && ...),
        "allfold: create takes an Environment, then Options and objects of the communicator's own policy types; "
        "name the policy among the template arguments of Communicator, or remove the argument");
    const Options options = detail::take_or_default<Options>(arguments...);
    check_environment(environment, Transport::name, Transport::max_world_size);
    check_options(Where("create", environment.rank, environment.world_size), options);
    const Deadline deadline = Deadline::after(options.rendezvous_timeout);
    return BasicCommunicator(
        environment, options, deadline,
        detail::take_store<Store>(environment, deadline, std::forward<Arguments>(arguments)...),
        detail::take_or_default<Transport>(arguments...), detail::take_or_default<Topology>(arguments...),
        detail::take_or_default<Selector>(arguments...), detail::take_or_default<Tracer>(arguments...));
  }

  /// The same without a throw, so that a caller can fall back: to fewer ranks, or to another transport.
  template <class... Arguments>
  static Attempt<BasicCommunicator> try_create(const Environment& environment, Arguments&&... arguments) {
    try {
      return Attempt<BasicCommunicator>(create(environment, std::forward<Arguments>(arguments)...));
    } catch (const Error& error) {
      return Attempt<BasicCommunicator>(error);
    }
  }

  BasicCommunicator(BasicCommunicator&&) noexcept = default;
  BasicCommunicator& operator=(BasicCommunicator&& other) noexcept {
    transport_.leave();
    store_ = std::move(other.store_);
    transport_ = std::move(other.transport_);
    topology_ = std::move(other.topology_);
    selector_ = std::move(other.selector_);
    tracer_ = std::move(other.tracer_);
    session_ = std::move(other.session_);
    return *this;
  }
  ~BasicCommunicator() { transport_.leave(); }

  /// This rank, 0 to world_size() - 1.
  int rank() const noexcept { return session_.rank; }
  /// How many ranks the communicator has.
  int world_size() const noexcept { return session_.world_size; }
  /// How the ranks are linked, as the topology policy (or an override) says.
  TopologyKind topology() const noexcept { return session_.topology; }
  /// What it was created with.
  const Options& options() const noexcept { return session_.options; }
  /// The policies' objects, for what only they can tell.
  Transport& transport() noexcept { return transport_; }
  Selector& selector() noexcept { return selector_; }
  Tracer& tracer() noexcept { return tracer_; }

  /// Throws what ended the communicator, if it has ended.
  void status() { enter(session_.where("status")); }

  /// Symmetric memory for `count` elements, zero at first.
  /// Shape: [count] elements of T on every rank.   Collective: every rank, same count and T.   Sync: blocks until all
  /// ranks have their part.
  /// @throws SystemError or CudaError without room for it, MismatchError, TimeoutError, PeerError.
  template <element T>
  buffer_type<T> allocate(std::size_t count) {
    return buffer_type<T>(share_memory(request_of<T>("allocate", count),
                                       [&](Meeting& meeting, std::size_t bytes, std::uint32_t serial) {
                                         return transport_.allocate(meeting, bytes == 0 ? sizeof(T) : bytes, serial);
                                       }),
                          count, world_size());
  }

  /// Makes memory of the caller's symmetric where it lies, so that collectives on it copy nothing in or out: memory of
  /// cudaMalloc on the rank's GPU. Its contents stay. The buffer does not own it: before any rank frees it, every rank
  /// drops its buffers of it and they meet, as by comm.barrier() and a wait for the stream; CUDA says of memory that is
  /// freed while another process maps it that anything may happen. The same range may be registered again.
  /// Shape: [count] elements of T on every rank.   Collective: every rank, same count and T.   Sync: waits for the GPU,
  /// and blocks until all ranks have mapped it.   Cost: milliseconds, and a page of GPU memory for signal pads.
  /// @throws UsageError for memory that cannot be shared, on its rank, and PeerError that names it on the others;
  /// MismatchError, CudaError, TimeoutError, PeerError. If a rank is lost meanwhile, the range's first 64 bytes may be.
  template <contiguous_elements Range>
  auto register_buffer(Range&& range) {
    using T = element_of<Range>;
    static_assert(!std::is_const_v<std::remove_pointer_t<decltype(std::data(range))>>,
                  "allfold: register_buffer takes memory that collectives may write; pass a range that is not const");
    static_assert(can_register,
                  "allfold: this transport cannot register memory of the caller's; use allocate instead, whose memory "
                  "all ranks reach");
    if constexpr (can_register) {
      const std::size_t count = std::size(range);
      return buffer_type<T>(share_memory(request_of<T>("register_buffer", count),
                                         [&](Meeting& meeting, std::size_t bytes, std::uint32_t serial) {
                                           return transport_.register_memory(meeting, std::data(range), bytes, serial);
                                         }),
                            count, world_size());
    }
  }

  /// Combines `inout` of all ranks, in ascending rank order, and gives the result to all.
  /// Shape: [count] elements of T.   Collective: every rank, same count, T and operator.
  /// Sync: blocks until this rank's result is there and no peer reads `inout` any more.   Memory order: what ranks did
  /// before the call is visible to all after it.
  /// Cost: docs/architecture.md names the algorithms; would_choose() says which one.
  /// @throws UsageError; MismatchError; TimeoutError or PeerError that names the rank that did not arrive.
  template <contiguous_elements Range, class Op>
  void all_reduce(Range&& inout, Op op, const CallOptions& options = {}) {
    all_reduce(inout, inout, op, options);
  }

  /// The same from `in` to `out`.
  /// Shape: in, out: [count] elements of T; the same buffer, or disjoint.   Collective, Sync, @throws: as above.
  template <contiguous_elements In, contiguous_elements Out, class Op>
  void all_reduce(const In& in, Out&& out, Op op, const CallOptions& options = {}) {
    using T = checked_output_t<In, Out>;
    check_reduction<Op, T>();
    if constexpr (reduction_for<Op, T>) {
      reduce(std::data(in), std::size(in), std::data(out), std::size(out), Reduction<Op, T>{op}, options);
    }
  }

  /// An all-reduce for a kernel of the caller's to run, on the GPU: `allfold::all_reduce(plan)` in whole blocks.
  /// Shape: in, out: [count] elements of T; the same buffer, or disjoint.   Collective: every rank, same count, T and
  /// operator; each launch of the kernel is one collective on the channel.   Sync: the host enqueues nothing.
  /// @throws UsageError.
  // Out of line for the same warning as choose().
  template <contiguous_elements In, contiguous_elements Out, class Op>
  ALLFOLD_NOINLINE auto device_all_reduce(const In& in, Out&& out, Op op, const CallOptions& options = {}) {
    using T = checked_output_t<In, Out>;
    static_assert(Transport::device, "allfold: device_all_reduce is for GPU ranks; use NvlinkTransport, or all_reduce");
    check_reduction<Op, T>();
    const Where where = session_.where("device_all_reduce");
    auto& channel = channel_of(where, options);
    const auto prepared = prepare(where, static_cast<const T*>(std::data(in)), std::size(in), std::data(out),
                                  std::size(out), Reduction<Op, T>{op}, options);
    return describe_all_reduce(channel, prepared.call, prepared.record, prepared.launch);
  }

  /// What kernels of the caller's signal with, through the pads of `buffer`: put_signal, wait_signal and barrier of
  /// launch/device_signals.cuh, with these options' timeout.   Sync: the host enqueues nothing.
  /// @throws UsageError.
  // Out of line for the same warning as choose().
  template <class T>
  ALLFOLD_NOINLINE auto device_signals(const buffer_type<T>& buffer, const CallOptions& options = {}) {
    static_assert(Transport::device, "allfold: device_signals is for GPU ranks; use NvlinkTransport, or barrier");
    const Where where = session_.where("device_signals");
    enter(where);
    const Located place = transport_.find(buffer.data(), 1);
    if (place.window == nullptr || place.window->serial != buffer.serial()) {
      throw UsageError(where,
                       {"the buffer has no signal pads of this communicator's ranks; expected a buffer that this ",
                        "communicator made; try allocate or register_buffer"});
    }
    return describe_signals(channel_of(where, options), buffer.signal_pads(), buffer.serial(),
                            EnqueueOptions{timeout_of(where, options, session_.options), options.stream});
  }

  /// The algorithm that all_reduce would take for these buffers; `none` is the fallback, two_shot in chunks.
  template <contiguous_elements In, contiguous_elements Out>
  Algorithm would_choose(const In& in, const Out& out) const {
    using T = element_of<const In>;
    const Located from = transport_.find(std::data(in), std::size(in) * sizeof(T));
    const Located to = transport_.find(std::data(out), std::size(out) * sizeof(T));
    return ask_selector(query(std::size(in) * sizeof(T), sizeof(T), from, to));
  }

  /// The same for `count` elements of T in private memory.
  template <element T>
  Algorithm would_choose(std::size_t count) const {
    return ask_selector(query(count * sizeof(T), sizeof(T), {}, {}));
  }

  /// Returns when every rank has called it.
  /// Collective: every rank.   Memory order: what ranks did before is visible to all after.
  /// @throws TimeoutError or PeerError that names the rank that has not come; MismatchError; UsageError.
  void barrier(const CallOptions& options = {}) {
    meet({.operation = Operation::barrier, .group = all_ranks(world_size())}, options);
  }

  /// The same among the ranks named, which alone call it, each with the same ranks.
  void barrier(std::span<const int> ranks, const CallOptions& options = {}) {
    meet({.operation = Operation::group_barrier, .group = group_mask(session_.where("barrier"), ranks, world_size())},
         options);
  }
  void barrier(std::initializer_list<int> ranks, const CallOptions& options = {}) {
    barrier(std::span<const int>(ranks.begin(), ranks.size()), options);
  }

 private:
  using Located = decltype(std::declval<const Transport&>().find(nullptr, std::size_t{}));

  static constexpr bool can_register = requires(Transport& transport, Meeting& meeting, void* pointer) {
    transport.register_memory(meeting, pointer, std::size_t{1}, std::uint32_t{1});
  };

  template <class A>
  static constexpr bool known_argument =
      std::is_same_v<A, Options> || std::is_same_v<A, Store> || std::is_same_v<A, Transport> ||
      std::is_same_v<A, Topology> || std::is_same_v<A, Selector> || std::is_same_v<A, Tracer>;

  BasicCommunicator(const Environment& environment, const Options& options, Deadline deadline, StoreHolder<Store> store,
                    Transport transport, Topology topology, Selector selector, Tracer tracer)
      : store_(std::move(store)),
        transport_(std::move(transport)),
        topology_(std::move(topology)),
        selector_(std::move(selector)),
        tracer_(std::move(tracer)) {
    session_.rank = environment.rank;
    session_.world_size = environment.world_size;
    session_.options = options;
    {
      Rendezvous rendezvous(*store_.used, environment, deadline);
      session_.store_prefix = rendezvous.prefix();
      in_meeting(session_.where("create"), rendezvous.gather(), deadline, serves_store(),
                 [&](Meeting& meeting) { find_peers(meeting); });
    }
    leave_store("create", deadline);
  }

  /// The others need this rank to reach the store.
  bool serves_store() const noexcept { return store_.own != nullptr && rank() == 0; }

  /// Meets once more without the store. A rank that serves it cannot go away before the others have done with it.
  void leave_store(std::string_view operation, Deadline deadline) {
    const CallRecord record{.operation = Operation::barrier, .group = all_ranks(world_size())};
    const std::optional<Failure> failure = transport_.meet(record, deadline.remaining());
    if (failure) fail(session_.where(operation), *failure);
  }

  void find_peers(Meeting& meeting) {
    open_tracer(tracer_, rank(), world_size());
    Introduction introduction{.identity = transport_.identity(),
                              .buffer_bytes = options().buffer_bytes,
                              .world_size = world_size(),
                              .channels = options().channels,
                              .blocks = options().blocks,
                              .lanes = options().lanes};
    copy_name(introduction.transport, Transport::name);
    const std::vector<Identity> identities = introduce(meeting, introduction);
    if (const std::string refusal = transport_.refusal(identities); !refusal.empty()) {
      throw UsageError(meeting.where(), {refusal});
    }
    transport_.connect(meeting, identities, options());
    struct Found {
      LinkMatrix links;
      TopologyOverrides overrides;
    };
    const Found mine{topology_.links(std::span<const Identity>(identities)), TopologyOverrides::from_environment()};
    const Found agreed = meeting.all_gather("topology", mine).front();
    place_in_topology(session_, agreed.links, agreed.overrides);
  }

  template <class T>
  static MemoryRequest request_of(std::string_view operation, std::size_t count) {
    MemoryRequest request{.type = type_identity<T>(), .count = count, .element_bytes = sizeof(T)};
    copy_name(request.operation, operation);
    copy_name(request.type_name, type_name<T>());
    return request;
  }

  /// Gets symmetric memory together with the other ranks: `make(meeting, bytes, serial)`.
  ALLFOLD_COLD allocation_type share_memory(const MemoryRequest& request,
                                            FunctionRef<allocation_type(Meeting&, std::size_t, std::uint32_t)> make) {
    const Where where = session_.where(request.operation);
    enter(where);
    const std::uint32_t serial = ++session_.allocations;
    std::size_t bytes = 0;
    if (__builtin_mul_overflow(request.count, request.element_bytes, &bytes)) {
      throw UsageError(where, {request.count, " elements of ", request.element_bytes,
                               " bytes are more than an address space holds"});
    }
    const Deadline deadline = Deadline::after(options().timeout);
    StoreGather gather(*store_.used, concat({session_.store_prefix, "/allocation ", serial}), where, rank(),
                       world_size(), deadline);
    allocation_type allocation{};
    in_meeting(where, gather, deadline, serves_store(), [&](Meeting& meeting) {
      check_requests(where, meeting.all_gather("requests of memory", request));
      allocation = make(meeting, bytes, serial);
    });
    leave_store(request.operation, deadline);
    return allocation;
  }

  SelectionQuery query(std::size_t bytes, std::size_t element_bytes, const Located& in,
                       const Located& out) const noexcept {
    const bool aligned = ((bytes | in.offset | out.offset) & 15U) == 0;
    const auto starts = [&](const Located& part) {  // at vectors; what CPU ranks share always does
      return !Transport::device || part.window == nullptr || start_at_vectors(part.window->at, world_size());
    };
    return {.bytes = bytes,
            .world_size = world_size(),
            .topology = session_.topology,
            .device = Transport::device,
            .symmetric = in.window != nullptr && out.window != nullptr,
            .aligned = aligned,
            .vectors = aligned && 16 % element_bytes == 0 && starts(in) && starts(out),
            .buffer_bytes = options().buffer_bytes,
            .possible = possible_algorithms(session_, element_bytes, Transport::largest_packet_element)};
  }

  Algorithm ask_selector(const SelectionQuery& query) const {
    return session_.fast_path ? selector_.select(query) : Algorithm::none;
  }

  /// The algorithm of a call: what its options ask for, else the selector's choice.
  /// Out of line: inlined, g++ 12 warns that a default CallOptions' empty optional is read uninitialized.
  ALLFOLD_NOINLINE Algorithm choose(const Where& where, const SelectionQuery& query, const CallOptions& options) const {
    constexpr AlgorithmSet candidates = Selector::candidates;
    constexpr AlgorithmSet fallback =
        candidates.contains(Algorithm::two_shot) ? AlgorithmSet::of(Algorithm::none) : AlgorithmSet{};
    constexpr AlgorithmSet compiled = candidates | fallback;
    const Algorithm chosen = options.algorithm ? *options.algorithm : ask_selector(query);
    if (!compiled.contains(chosen) || !query.possible.contains(chosen)) {
      throw_impossible(where, chosen, compiled.contains(chosen), query.bytes);
    }
    return chosen;
  }

  Buffer buffer_at(const Located& place) const noexcept {
    if (place.window != nullptr) return place.window->buffer(place.offset, world_size());
    return {};
  }

  /// A checked all-reduce, ready to be launched.
  template <class R>
  struct Prepared {
    CallRecord record;
    AllReduceCall<R> call;
    EnqueueOptions launch;
  };

  template <class R, class T = typename R::value_type>
  Prepared<R> prepare(const Where& where, const T* in, std::size_t count, T* out, std::size_t out_count,
                      const R& reduction, const CallOptions& options) {
    enter(where);
    check_buffers(where, in, count, out, out_count, sizeof(T));
    check_element_size(where, std::max(sizeof(T), sizeof(typename R::accumulator)), transport_.staging_bytes());
    const Located from = transport_.find(in, count * sizeof(T));
    const Located to = transport_.find(out, count * sizeof(T));
    if constexpr (requires { transport_.check_private(where, "input", in); }) {
      if (count != 0 && from.window == nullptr) transport_.check_private(where, "input", in);
      if (count != 0 && to.window == nullptr && out != in) transport_.check_private(where, "output", out);
    }
    Prepared<R> prepared{.record = record_of<R>,
                         .call = {.reduction = reduction,
                                  .count = count,
                                  .in = in,
                                  .out = out,
                                  .inputs = buffer_at(from),
                                  .outputs = buffer_at(to),
                                  .mesh = session_.mesh},
                         .launch = {timeout_of(where, options, session_.options), options.stream}};
    CallRecord& record = prepared.record;
    record.algorithm = choose(where, query(count * sizeof(T), sizeof(T), from, to), options);
    record.reduction = operator_identity(reduction.op);
    record.count = count;
    if (from.window != nullptr) record.in = {from.window->serial, from.offset};
    if (to.window != nullptr) record.out = {to.window->serial, to.offset};
    return prepared;
  }

  template <class R, class T = typename R::value_type>
  void reduce(const T* in, std::size_t count, T* out, std::size_t out_count, const R& reduction,
              const CallOptions& options) {
    const Where where = session_.where("all_reduce");
    auto& channel = channel_of(where, options);
    const Prepared<R> prepared = prepare(where, in, count, out, out_count, reduction, options);
    run(
        where, prepared.record, options,
        [&] {
          return launch_all_reduce(channel, Candidates<Selector::candidates>{}, prepared.record.algorithm,
                                   prepared.call, prepared.record, prepared.launch);
        },
        sizeof(T));
  }

  /// What does not depend on the call's arguments.
  template <class R>
  static constexpr CallRecord record_of = [] {
    CallRecord record;
    record.operation = Operation::all_reduce;
    record.type = type_identity<typename R::value_type>();
    copy_name(record.type_name, type_name<typename R::value_type>());
    copy_name(record.reduction_name, operator_name<decltype(R::op)>());
    return record;
  }();

  void meet(const CallRecord& record, const CallOptions& options) {
    const Where where = session_.where("barrier");
    enter(where);
    auto& channel = channel_of(where, options);
    const EnqueueOptions launch{timeout_of(where, options, session_.options), options.stream};
    run(where, record, options, [&] { return launch_barrier(channel, record, launch); }, 0);
  }

  /// Runs a launch, traces it, and throws if it failed.
  template <class Launch>
  void run(const Where& where, const CallRecord& record, const CallOptions& options, Launch&& launch,
           std::size_t element_bytes) {
    if constexpr (!Tracer::enabled) {
      if (const std::optional<Failure> failure = launch()) fail(where, *failure);
    } else {
      const std::uint32_t earlier = transport_.channel(options.channel).sequence();
      TraceEvent event = trace_event(session_, record, options.channel, earlier + 1, element_bytes);
      begin_trace(tracer_, event);
      try {
        if (const std::optional<Failure> failure = launch()) fail(where, *failure);
      } catch (const std::exception& error) {
        end_trace(tracer_, event, error.what());
        throw;
      }
      end_trace(tracer_, event);
    }
  }

  auto& channel_of(const Where& where, const CallOptions& options) {
    if (options.channel < 0 || options.channel >= session_.options.channels) throw_bad_channel(where, options.channel);
    return transport_.channel(options.channel);
  }

  /// Refuses to start on a communicator that has ended, here or on another rank.
  void enter(const Where& where) {
    if (session_.failed) throw_failure(where, *session_.failed);
    if (const std::optional<Failure> failure = transport_.failure()) fail(where, *failure, true);
  }

  /// `earlier`: it was found when a call was about to start.
  [[noreturn]] ALLFOLD_COLD void fail(const Where& where, const Failure& failure, bool earlier = false) {
    auto& channel = transport_.channel(failure.channel);
    FailureReport report{.failure = failure, .by_call = channel.call_of(failure.by, failure.group), .source_call = {}};
    if (failure.code == ErrorCode::mismatch) report.source_call = channel.call_of(failure.source, failure.source_group);
    report.earlier = true;
    session_.failed = report;
    report.earlier = earlier;
    throw_failure(where, report);
  }

  [[noreturn]] ALLFOLD_COLD void throw_bad_channel(const Where& where, int channel) const {
    throw UsageError(where, {"channel ", channel, " does not exist; expected 0 to ", session_.options.channels - 1,
                             "; ask for more with Options::channels"});
  }

  StoreHolder<Store> store_;
  Transport transport_;
  Topology topology_;
  Selector selector_;
  Tracer tracer_;
  Session session_;
};

}  // namespace allfold
