// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <allfold/algo/message/all_gather.hpp>
#include <allfold/algo/message/all_reduce.hpp>
#include <allfold/algo/message/all_to_all.hpp>
#include <allfold/algo/message/barrier.hpp>
#include <allfold/algo/message/broadcast.hpp>
#include <allfold/algo/message/gather.hpp>
#include <allfold/algo/message/reduce.hpp>
#include <allfold/algo/message/reduce_scatter.hpp>
#include <allfold/algo/message/scatter.hpp>
#include <allfold/algo/message/send_receive.hpp>
#include <allfold/attempt.hpp>
#include <allfold/communicator/message_arguments.hpp>
#include <allfold/communicator/message_session.hpp>
#include <allfold/exec/host_reduction.hpp>
#include <allfold/op/reduction.hpp>
#include <allfold/work.hpp>

namespace allfold {

/// Collectives and messages among the ranks of a job, on whatever hosts. `Communicator<Policies...>` (allfold.hpp) is
/// how to name one: a transport that moves messages makes it this class. `Topology` is not asked: between hosts it says
/// nothing.
///
/// Every operation returns its Work: over, unless CallOptions::async is set. Buffers of an operation that is not over
/// are left alone. One thread uses a communicator at a time. Every rank makes the same collective calls in the same
/// order on a channel. An operation that fails ends the communicator on every rank: each later call says why, until it
/// is created again. Destroying it is no collective; a peer that still waits for this rank gets PeerError. A coroutine
/// that goes on on the progress thread may do it: the thread then ends by itself, when the coroutine has come out.
///
/// Shapes below: `count` and lists of counts are in elements; "all ranks' parts" are the parts one after another, by
/// rank. Every call throws UsageError, and, at once or from Work::wait: MismatchError, TimeoutError or PeerError that
/// names the rank that did not arrive.
template <store_policy Store, message_transport_policy Transport, message_selector_policy Selector,
          tracer_policy Tracer>
class MessageCommunicator {
  using State = MessageSession<Store, Transport, Selector, Tracer>;
  using E = typename Transport::endpoint_type;

 public:
  /// Meets the other ranks. `arguments`, in any order, each optional: an Options, a MessageOptions, and objects of the
  /// policies' types; a store is taken by reference (then it must outlive the communicator) or by value.
  /// Collective: every rank, with equal options.   Blocks until all ranks are there, or Options::rendezvous_timeout.
  /// @throws UsageError, TimeoutError that names who did not come, MismatchError, PeerError, SystemError, the
  /// transport's.
  template <class... Arguments>
  static MessageCommunicator create(const Environment& environment, Arguments&&... arguments) {
    return MessageCommunicator(State::create(environment, std::forward<Arguments>(arguments)...));
  }

  /// The same without a throw, so that a caller can fall back.
  template <class... Arguments>
  static Attempt<MessageCommunicator> try_create(const Environment& environment, Arguments&&... arguments) {
    try {
      return Attempt<MessageCommunicator>(create(environment, std::forward<Arguments>(arguments)...));
    } catch (const Error& error) {
      return Attempt<MessageCommunicator>(error);
    }
  }

  /// This rank, 0 to world_size() - 1.
  int rank() const noexcept { return state_->rank(); }
  /// How many ranks the communicator has.
  int world_size() const noexcept { return state_->world_size(); }
  /// What it was created with.
  const Options& options() const noexcept { return state_->options(); }
  const MessageOptions& message_options() const noexcept { return state_->message_options(); }
  /// The policies' objects, for what only they can tell.
  Transport& transport() noexcept { return state_->transport(); }
  Selector& selector() noexcept { return state_->selector(); }
  Tracer& tracer() noexcept { return state_->tracer(); }

  /// Throws what ended the communicator, if it has ended.
  void status() { state_->enter(state_->where("status")); }

  /// Moves operations on, where the caller makes progress; never waits.
  void progress() { state_->transport().progress().poll(); }

  /// Combines `inout` of all ranks and gives the result to all; in ascending rank order, unless CallOptions::fast.
  /// Shape: [count] elements of T.   Collective: every rank, same count, T and operator.
  template <contiguous_elements Range, class Op>
  Work all_reduce(Range&& inout, Op op, const CallOptions& options = {}) {
    return all_reduce(inout, inout, op, options);
  }

  /// The same from `in` to `out`.
  /// Shape: in, out: [count] elements of T; the same buffer, or disjoint.
  template <contiguous_elements In, contiguous_elements Out, class Op>
  Work all_reduce(const In& in, Out&& out, Op op, const CallOptions& options = {}) {
    using T = output_of<In, Out>;
    const Where where = state_->where("all_reduce");
    const Arguments<T> a(in, out);
    check_count(where, "output", a.out_count, a.count, "as many as the input");
    check_extents(where, a.input(), a.output(), a.in == a.out);
    const AllReduceMotion motion = state_->selector().all_reduce(state_->template query<Op, T>(a.count, options));
    return reduction<Op, T>(where, {.operation = Operation::all_reduce, .algorithm = name(motion), .count = a.count},
                            op, options, a, [a, motion](E& e, const MessageReduction& r) {
                              return message::all_reduce(e, motion, r, a.in, a.out, a.count);
                            });
  }

  /// all_reduce of several buffers in place, in one operation: many short ones cost what one costs.
  /// Shape: buffers: any number of [count_i] elements of T, disjoint.   Collective: every rank, same counts, T and
  /// operator.
  template <element T, class Op>
  Work all_reduce_coalesced(std::span<const std::span<T>> buffers, Op op, const CallOptions& options = {}) {
    const Where where = state_->where("all_reduce_coalesced");
    std::vector<message::ReducePiece> pieces;
    std::vector<std::size_t> counts;
    std::vector<Extent> extents;
    std::size_t count = 0;
    for (const std::span<T> each : buffers) {
      const Extent extent = Extent::of(each.data(), each.size());
      check_extents(where, {}, extent);
      if constexpr (State::has_memory_kinds) extents.push_back(extent);
      pieces.push_back({each.data(), each.data(), each.size()});
      counts.push_back(each.size());
      count += each.size();
    }
    check_disjoint(where, buffers);
    const AllReduceMotion motion = state_->selector().all_reduce(state_->template query<Op, T>(count, options));
    return reduction<Op, T>(where,
                            {.operation = Operation::all_reduce_coalesced,
                             .algorithm = name(motion),
                             .count = count,
                             .split_hash = hash_splits(counts)},
                            op, options, Arguments<T>(nullptr, count, nullptr, count).with_pieces(extents),
                            [pieces = std::move(pieces), motion](E& e, const MessageReduction& r) {
                              return message::all_reduce_coalesced(e, motion, r, std::span(pieces));
                            });
  }

  /// Combines `in` of all ranks into `out` of CallOptions::root; `out` of other ranks is not touched, and may be empty.
  /// Shape: in, out: [count] elements of T; the same buffer, or disjoint.   Collective: every rank, same count, T, root
  /// and operator.
  template <contiguous_elements In, contiguous_elements Out, class Op>
  Work reduce(const In& in, Out&& out, Op op, const CallOptions& options = {}) {
    using T = output_of<In, Out>;
    const Where where = state_->where("reduce");
    const Arguments<T> a(in, out);
    check_root(where, options.root);
    const bool is_root = options.root == rank();
    if (is_root) {
      check_count(where, "output", a.out_count, a.count, "as many as the input");
      check_extents(where, a.input(), a.output(), a.in == a.out);
    } else {
      check_extents(where, a.input(), {});
    }
    const ReduceMotion motion = state_->selector().reduce(state_->template query<Op, T>(a.count, options));
    return reduction<Op, T>(
        where, {.operation = Operation::reduce, .algorithm = name(motion), .count = a.count, .root = options.root}, op,
        options, is_root ? a : a.without_output(), [a, motion, root = options.root](E& e, const MessageReduction& r) {
          return message::reduce(e, motion, r, a.in, a.out, a.count, root);
        });
  }

  /// Copies `inout` of CallOptions::root to all.
  /// Shape: [count] elements of T.   Collective: every rank, same count, T and root.
  template <contiguous_elements Range>
  Work broadcast(Range&& inout, const CallOptions& options = {}) {
    using T = output_of<Range, Range>;
    const Where where = state_->where("broadcast");
    const Arguments<T> a(inout, inout);
    check_root(where, options.root);
    check_extents(where, a.input(), a.output(), true);
    const BroadcastMotion motion = state_->selector().broadcast(state_->query(a.count * sizeof(T)));
    return motion_of<T>(
        where, {.operation = Operation::broadcast, .algorithm = name(motion), .count = a.count, .root = options.root},
        options, a, [a, motion, root = options.root](E& e) {
          return message::broadcast(e, motion, a.out, a.count * sizeof(T), root);
        });
  }

  /// Gives all ranks' parts to all.
  /// Shape: in: [count]; out: [world_size * count] elements of T, all ranks' parts; `in` may be this rank's part of
  /// `out`.
  /// Collective: every rank, same count and T.
  template <contiguous_elements In, contiguous_elements Out>
  Work all_gather(const In& in, Out&& out, const CallOptions& options = {}) {
    using T = output_of<In, Out>;
    const Where where = state_->where("all_gather");
    const Arguments<T> a(in, out);
    check_count(where, "output", a.out_count, a.count * ranks(), "the input's for each rank");
    if (state_->message_options().all_gather_by_v) {
      return all_gather_v(in, out, std::vector<std::size_t>(ranks(), a.count), options);
    }
    check_extents(where, a.input(), a.output(), a.in == a.out + index(rank()) * a.count);
    const AllGatherMotion motion = state_->selector().all_gather(state_->query(a.out_count * sizeof(T)));
    return motion_of<T>(where, {.operation = Operation::all_gather, .algorithm = name(motion), .count = a.count},
                        options, a,
                        [a, motion](E& e) { return message::all_gather(e, motion, a.in, a.out, a.count * sizeof(T)); });
  }

  /// The same with parts of any size.
  /// Shape: in: [counts[rank]]; out: [sum of counts].   Collective: every rank, same counts and T.
  template <contiguous_elements In, contiguous_elements Out>
  Work all_gather_v(const In& in, Out&& out, std::span<const std::size_t> counts, const CallOptions& options = {}) {
    using T = output_of<In, Out>;
    const Where where = state_->where("all_gather_v");
    const Arguments<T> a(in, out);
    Splits splits(where, "output", counts, a.out_count);
    check_count(where, "input", a.count, splits.of(rank()), "this rank's count");
    check_extents(where, a.input(), a.output(), a.in == a.out + splits.parts().of(rank()).begin);
    return motion_of<T>(where,
                        {.operation = Operation::all_gather_v, .count = a.out_count, .split_hash = hash_splits(counts)},
                        options, a.with_splits({}, counts), [a, splits = std::move(splits)](E& e) {
                          return message::all_gather_pairwise(e, a.in, a.out, splits.parts().times(sizeof(T)));
                        });
  }

  /// Combines the inputs of all ranks and gives each its part of the result.
  /// Shape: in: [world_size * count], all ranks' parts; out: [count] elements of T; `out` may be this rank's part of
  /// `in`.
  /// Collective: every rank, same count, T and operator.
  template <contiguous_elements In, contiguous_elements Out, class Op>
  Work reduce_scatter(const In& in, Out&& out, Op op, const CallOptions& options = {}) {
    using T = output_of<In, Out>;
    const Where where = state_->where("reduce_scatter");
    const Arguments<T> a(in, out);
    check_count(where, "input", a.count, a.out_count * ranks(), "the output's for each rank");
    check_extents(where, a.input(), a.output(), a.in + index(rank()) * a.out_count == a.out);
    const ReduceScatterMotion motion =
        state_->selector().reduce_scatter(state_->template query<Op, T>(a.count, options));
    return reduction<Op, T>(where,
                            {.operation = Operation::reduce_scatter, .algorithm = name(motion), .count = a.out_count},
                            op, options, a, [a, motion](E& e, const MessageReduction& r) {
                              return message::reduce_scatter(e, motion, r, a.in, a.out, Parts::equal(a.out_count));
                            });
  }

  /// The same with parts of any size.
  /// Shape: in: [sum of counts]; out: [counts[rank]].   Collective: every rank, same counts, T and operator.
  template <contiguous_elements In, contiguous_elements Out, class Op>
  Work reduce_scatter_v(const In& in, Out&& out, Op op, std::span<const std::size_t> counts,
                        const CallOptions& options = {}) {
    using T = output_of<In, Out>;
    const Where where = state_->where("reduce_scatter_v");
    const Arguments<T> a(in, out);
    Splits splits(where, "input", counts, a.count);
    check_count(where, "output", a.out_count, splits.of(rank()), "this rank's count");
    check_extents(where, a.input(), a.output(), a.in + splits.parts().of(rank()).begin == a.out);
    const ReduceScatterMotion motion =
        state_->selector().reduce_scatter(state_->template query<Op, T>(a.count, options));
    return reduction<Op, T>(where,
                            {.operation = Operation::reduce_scatter_v,
                             .algorithm = name(motion),
                             .count = a.count,
                             .split_hash = hash_splits(counts)},
                            op, options, a.with_splits(counts, {}),
                            [a, motion, splits = std::move(splits)](E& e, const MessageReduction& r) {
                              return message::reduce_scatter(e, motion, r, a.in, a.out, splits.parts());
                            });
  }

  /// Part r of `in` goes to rank r, whose part of `out` for this rank it becomes.
  /// Shape: in, out: [world_size * count] elements of T, all ranks' parts; the same buffer, or disjoint.
  /// Collective: every rank, same count and T.
  template <contiguous_elements In, contiguous_elements Out>
  Work all_to_all(const In& in, Out&& out, const CallOptions& options = {}) {
    using T = output_of<In, Out>;
    const Where where = state_->where("all_to_all");
    const Arguments<T> a(in, out);
    check_count(where, "output", a.out_count, a.count, "as many as the input");
    const std::size_t each = a.count / ranks();
    check_count(where, "input", a.count, each * ranks(), "a multiple of the world size");
    check_extents(where, a.input(), a.output(), a.in == a.out);
    const AllToAllMotion motion = state_->selector().all_to_all(state_->query(a.count * sizeof(T)));
    return motion_of<T>(
        where, {.operation = Operation::all_to_all, .algorithm = name(motion), .count = a.count}, options, a,
        [a, motion, each](E& e) { return message::all_to_all(e, motion, a.in, a.out, each * sizeof(T)); });
  }

  /// The same with parts of any size: in_counts[r] elements go to rank r, out_counts[r] come from it.
  /// Shape: in: [sum of in_counts]; out: [sum of out_counts]; disjoint.   Collective: every rank, same T; in_counts[r]
  /// here is out_counts[rank] on rank r.
  template <contiguous_elements In, contiguous_elements Out>
  Work all_to_all_v(const In& in, std::span<const std::size_t> in_counts, Out&& out,
                    std::span<const std::size_t> out_counts, const CallOptions& options = {}) {
    using T = output_of<In, Out>;
    const Where where = state_->where("all_to_all_v");
    const Arguments<T> a(in, out);
    Splits from(where, "input", in_counts, a.count);
    Splits to(where, "output", out_counts, a.out_count);
    check_extents(where, a.input(), a.output());
    check_count(where, "output", to.of(rank()), from.of(rank()), "for this rank, as many as the input has for it");
    return motion_of<T>(where, {.operation = Operation::all_to_all_v}, options, a.with_splits(in_counts, out_counts),
                        [a, from = std::move(from), to = std::move(to)](E& e) {
                          return message::all_to_all_pairwise(e, a.in, from.parts().times(sizeof(T)), a.out,
                                                              to.parts().times(sizeof(T)));
                        });
  }

  /// Gives all ranks' parts to CallOptions::root; `out` of other ranks is not touched, and may be empty.
  /// Shape: in: [count]; out: [world_size * count] elements of T; the root's `in` may be its part of `out`.
  /// Collective: every rank, same count, T and root.
  template <contiguous_elements In, contiguous_elements Out>
  Work gather(const In& in, Out&& out, const CallOptions& options = {}) {
    using T = output_of<In, Out>;
    const Where where = state_->where("gather");
    const Arguments<T> a(in, out);
    check_root(where, options.root);
    const bool is_root = options.root == rank();
    if (is_root) {
      check_count(where, "output", a.out_count, a.count * ranks(), "the input's for each rank");
      check_extents(where, a.input(), a.output(), a.in == a.out + index(rank()) * a.count);
    } else {
      check_extents(where, a.input(), {});
    }
    const std::size_t each = a.count * sizeof(T);
    return motion_of<T>(where, {.operation = Operation::gather, .count = a.count, .root = options.root}, options,
                        is_root ? a : a.without_output(),
                        [a, each, root = options.root, tree = takes_tree(each)](E& e) {
                          return tree ? message::gather_knomial(e, a.in, a.out, each, root)
                                      : message::gather_linear(e, a.in, a.out, Parts::equal(each), root);
                        });
  }

  /// The same with parts of any size: `counts` are asked of the root alone.
  /// Shape: in: [counts[rank]]; out: [sum of counts].   Collective: every rank, same T and root.
  template <contiguous_elements In, contiguous_elements Out>
  Work gather_v(const In& in, Out&& out, std::span<const std::size_t> counts, const CallOptions& options = {}) {
    using T = output_of<In, Out>;
    const Where where = state_->where("gather_v");
    const Arguments<T> a(in, out);
    check_root(where, options.root);
    const bool is_root = options.root == rank();
    Splits splits = is_root ? Splits(where, "output", counts, a.out_count) : Splits::own(where, a.count);
    check_count(where, "input", a.count, splits.of(rank()), "this rank's count");
    check_extents(where, a.input(), is_root ? a.output() : Extent(), a.in == a.out + splits.parts().of(rank()).begin);
    return motion_of<T>(where, {.operation = Operation::gather_v, .root = options.root}, options,
                        is_root ? a.with_splits({}, counts) : a.without_output(),
                        [a, splits = std::move(splits), root = options.root](E& e) {
                          return message::gather_linear(e, a.in, a.out, splits.parts().times(sizeof(T)), root);
                        });
  }

  /// Gives each rank its part of `in` of CallOptions::root; `in` of other ranks is not read, and may be empty.
  /// Shape: in: [world_size * count]; out: [count] elements of T; the root's `out` may be its part of `in`.
  /// Collective: every rank, same count, T and root.
  template <contiguous_elements In, contiguous_elements Out>
  Work scatter(const In& in, Out&& out, const CallOptions& options = {}) {
    using T = output_of<In, Out>;
    const Where where = state_->where("scatter");
    const Arguments<T> a(in, out);
    check_root(where, options.root);
    const bool is_root = options.root == rank();
    if (is_root) {
      check_count(where, "input", a.count, a.out_count * ranks(), "the output's for each rank");
      check_extents(where, a.input(), a.output(), a.in + index(rank()) * a.out_count == a.out);
    } else {
      check_extents(where, {}, a.output());
    }
    const std::size_t each = a.out_count * sizeof(T);
    return motion_of<T>(where, {.operation = Operation::scatter, .count = a.out_count, .root = options.root}, options,
                        is_root ? a : a.without_input(), [a, each, root = options.root, tree = takes_tree(each)](E& e) {
                          return tree ? message::scatter_knomial(e, a.in, a.out, each, root)
                                      : message::scatter_linear(e, a.in, a.out, Parts::equal(each), root);
                        });
  }

  /// The same with parts of any size: `counts` are asked of the root alone.
  /// Shape: in: [sum of counts]; out: [counts[rank]].   Collective: every rank, same T and root.
  template <contiguous_elements In, contiguous_elements Out>
  Work scatter_v(const In& in, std::span<const std::size_t> counts, Out&& out, const CallOptions& options = {}) {
    using T = output_of<In, Out>;
    const Where where = state_->where("scatter_v");
    const Arguments<T> a(in, out);
    check_root(where, options.root);
    const bool is_root = options.root == rank();
    Splits splits = is_root ? Splits(where, "input", counts, a.count) : Splits::own(where, a.out_count);
    check_count(where, "output", a.out_count, splits.of(rank()), "this rank's count");
    check_extents(where, is_root ? a.input() : Extent(), a.output(), a.in + splits.parts().of(rank()).begin == a.out);
    return motion_of<T>(where, {.operation = Operation::scatter_v, .root = options.root}, options,
                        is_root ? a.with_splits(counts, {}) : a.without_input(),
                        [a, splits = std::move(splits), root = options.root](E& e) {
                          return message::scatter_linear(e, a.in, a.out, splits.parts().times(sizeof(T)), root);
                        });
  }

  /// Returns when every rank has called it.   Collective: every rank.
  Work barrier(const CallOptions& options = {}) {
    return motion_of<char>(state_->where("barrier"), {.operation = Operation::barrier}, options, Arguments<char>(),
                           [](E& e) { return message::barrier_dissemination(e); });
  }

  /// Sends a message to rank `to`, which receives it with the same CallOptions::tag; messages have no channel. Messages
  /// between two ranks with one tag arrive in the order they were sent. Over when `data` may be changed, which may be
  /// before it is received.
  /// Shape: [count] elements of T.   A message to this rank itself needs a receive that was posted before.
  template <contiguous_elements Range>
  Work send(const Range& data, int to, const CallOptions& options = {}) {
    using T = element_of<const Range>;
    const Where where = state_->where("send");
    const T* const from = std::data(data);
    const std::size_t count = std::size(data);
    check_peer(where, "send to", to);
    check_tag(where, options.tag);
    check_extents(where, Extent::of(from, count), {}, true);
    Traffic traffic;
    traffic.in_bytes = count * sizeof(T);
    traffic.in = from;
    return state_->message(
        where, message_record<T>(Operation::send, count), to, options, traffic,
        [from, bytes = traffic.in_bytes, to](E& e, int&) { return message::send(e, to, from, bytes); });
  }

  /// Receives a message of rank `from`, or of any_source: then Work::source_rank() says of which.
  /// Shape: [count] elements of T, as many as were sent.
  template <contiguous_elements Range>
  Work receive(Range&& data, int from, const CallOptions& options = {}) {
    using T = output_of<Range, Range>;
    const Where where = state_->where("receive");
    T* const to = std::data(data);
    const std::size_t count = std::size(data);
    if (from != any_source) check_peer(where, "receive from", from);
    check_tag(where, options.tag);
    check_extents(where, {}, Extent::of(to, count), true);
    Traffic traffic;
    traffic.out_bytes = count * sizeof(T);
    traffic.result = {to, count, type_identity<T>()};
    return state_->message(where, message_record<T>(Operation::receive, count), from, options, traffic,
                           [to, bytes = traffic.out_bytes, from](E& e, int& source) {
                             return message::receive(e, from, to, bytes, source);
                           });
  }

 private:
  template <class T>
  using Arguments = MessageArguments<T>;

  /// The element type of an output, which the input shares.
  template <class In, class Out>
  using output_of = checked_output_t<In, Out>;

  explicit MessageCommunicator(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}

  static constexpr std::size_t index(int rank) noexcept { return static_cast<std::size_t>(rank); }
  std::size_t ranks() const noexcept { return index(world_size()); }

  /// Whether parts of so many bytes go through a tree, in which they travel several times.
  /// Source: docs/scaling.md, gather and scatter.
  static constexpr bool takes_tree(std::size_t each) noexcept { return each <= 4096; }

  template <class Op, class T, class Body>
  Work reduction(const Where& where, MessageRecord record, Op op, const CallOptions& options, const Arguments<T>& a,
                 Body body) {
    check_reduction<Op, T>();
    if constexpr (reduction_for<Op, T>) {
      record.reduction = operator_identity(op);
      record.reduction_name = operator_name<Op>();
      state_->template prepare<Reduction<Op, T>>(where);
      return motion_of<T>(where, record, options, a, [body = std::move(body), reduction = Reduction<Op, T>{op}](E& e) {
        return body(e, reduction_for_messages<E>(reduction));
      });
    } else {
      return {};
    }
  }

  template <class T>
  static MessageRecord message_record(Operation operation, std::size_t count) noexcept {
    return {.operation = operation, .type = type_identity<T>(), .count = count, .type_name = type_name<T>()};
  }

  template <class T, class Body>
  Work motion_of(const Where& where, MessageRecord record, const CallOptions& options, const Arguments<T>& a,
                 Body body) {
    if (a.has_type) {
      record.type = type_identity<T>();
      record.type_name = type_name<T>();
    }
    return state_->collective(where, record, options, a.traffic(),
                              [body = std::move(body)](E& e, int&) { return body(e); });
  }

  std::shared_ptr<State> state_;
};

}  // namespace allfold
