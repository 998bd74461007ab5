// SPDX-License-Identifier: Apache-2.0
#pragma once

/// allfold: collectives for C++ programs. This is the whole of it for CPU ranks; programs compiled by nvcc include
/// allfold.cuh.

#include <type_traits>

#include <allfold/communicator.hpp>
#include <allfold/op/operators.hpp>
#include <allfold/policy/pick.hpp>
#include <allfold/select/fixed.hpp>
#include <allfold/select/threshold.hpp>
#include <allfold/select/tuned.hpp>
#include <allfold/spawn.hpp>
#include <allfold/spawn/bootstrap.hpp>
#include <allfold/store/all_gather.hpp>
#include <allfold/store/file.hpp>
#include <allfold/store/hash.hpp>
#include <allfold/store/prefix.hpp>
#include <allfold/store/tcp.hpp>
#include <allfold/topology/fixed.hpp>
#include <allfold/trace/json_tracer.hpp>
#include <allfold/trace/null_tracer.hpp>
#include <allfold/transport/shm.hpp>
#include <allfold/version.hpp>

namespace allfold {

namespace detail {

/// What a refused pack names, so that the refusal is the only error.
struct NoCommunicator {};

template <class... Ps>
struct CommunicatorOf {
  static_assert(CheckPack<Ps...>::ok);
  using type = NoCommunicator;
};

template <class... Ps>
  requires(valid_pack<Ps...>)
struct CommunicatorOf<Ps...> {
  using Transport = pick_t<transport_tag, ShmTransport, Ps...>;
  using Selector = pick_t<selector_tag, TunedSelector, Ps...>;
  static_assert(symmetric_transport_policy<Transport>,
                "allfold: this transport moves messages, and the communicator that does is not included; include "
                "<allfold/messages.hpp>, or <allfold/ucx.hpp>, which has it");
  static_assert(symmetric_selector_policy<Selector>,
                "allfold: this selector chooses motions of messages, and the transport shares memory; choose "
                "TunedSelector, ThresholdSelector, FixedSelector, or one with the members that "
                "allfold::symmetric_selector_policy asks for");
  // In place of what was refused, the default: so the refusal is the only error.
  using type = BasicCommunicator<pick_t<store_tag, TcpStore, Ps...>,
                                 std::conditional_t<symmetric_transport_policy<Transport>, Transport, ShmTransport>,
                                 pick_t<topology_tag, FixedTopology, Ps...>,
                                 std::conditional_t<symmetric_selector_policy<Selector>, Selector, TunedSelector>,
                                 pick_t<tracer_tag, NullTracer, Ps...>>;
};

}  // namespace detail

/// A communicator with these policies, in any order, each optional: where ranks meet (a store), how bytes move
/// (a transport), how ranks are linked (a topology), which algorithm runs at which size (a selector), and who is told
/// of each collective (a tracer). A pack in another order is the same type.
template <class... Policies>
using Communicator = typename detail::CommunicatorOf<Policies...>::type;

}  // namespace allfold
