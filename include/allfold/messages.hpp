// SPDX-License-Identifier: Apache-2.0
#pragma once

/// allfold over messages: the communicator that a transport of messages makes, a program's own too. It needs no
/// library; ucx.hpp includes it and has the transports over UCX.

#include <type_traits>

#include <allfold/allfold.hpp>
#include <allfold/message_communicator.hpp>
#include <allfold/select/message_thresholds.hpp>

namespace allfold::detail {

template <class... Ps>
  requires(valid_pack<Ps...> && message_transport_policy<pick_t<transport_tag, void, Ps...>>)
struct CommunicatorOf<Ps...> {
  using Selector = pick_t<selector_tag, MessageThresholds, Ps...>;
  static_assert(
      message_selector_policy<Selector>,
      "allfold: this selector chooses among algorithms of symmetric memory, and the transport moves messages; "
      "choose MessageThresholds, a FixedSelector of motions, or one with the members that "
      "allfold::message_selector_policy asks for, which may have the others too");
  // In place of what was refused, the default: so the refusal is the only error.
  using type = MessageCommunicator<pick_t<store_tag, TcpStore, Ps...>, pick_t<transport_tag, void, Ps...>,
                                   std::conditional_t<message_selector_policy<Selector>, Selector, MessageThresholds>,
                                   pick_t<tracer_tag, NullTracer, Ps...>>;
};

}  // namespace allfold::detail
