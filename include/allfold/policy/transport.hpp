// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <allfold/policy/categories.hpp>
#include <allfold/policy/identity.hpp>
#include <allfold/policy/meeting.hpp>
#include <allfold/policy/message_options.hpp>
#include <allfold/policy/options.hpp>

namespace allfold {

/// Moves bytes between the ranks of a window: every rank's buffer is an address.
///
///   name                                  a short text; ranks with different transports refuse each other
///   max_world_size
///   device                                whether operands lie in GPU memory
///   largest_packet_element                a larger element does not travel in packets or chunks, in bytes
///   identity() -> Identity                what this rank says of itself
///   refusal(identities) -> std::string    why it cannot serve these ranks; empty: it can. Alike on every rank
///   connect(meeting, identities, options) maps control memory and channels; proves that bytes arrive at every rank
///   allocate(meeting, bytes, serial) -> allocation_type
///       symmetric memory: a shared pointer that frees it, to something with `data()` and `window()`; `serial` counts
///       the communicator's allocations from 1
///   find(pointer, bytes)                  the symmetric allocation that holds the range: {const Window* window;
///   offset} staging_bytes() -> std::size_t        staging memory of one rank and channel
///   channel(i) -> channel_type&           what `launch_all_reduce` and `launch_barrier` take, which are found by
///                                         argument-dependent lookup
///   meet(record, timeout)                 a barrier that is none of the user's calls, once the store is done with;
///   waits failure()                             optional<Failure>: why the communicator ended, on whatever rank
///   leave()                               tells peers that this rank destroys its communicator; noexcept
///
/// A transport may have these too:
///   register_memory(meeting, pointer, bytes, serial) -> allocation_type
///                                         the same for memory of the caller's, which stays where it is and his to free
///   check_private(where, what, pointer)   throws UsageError if private memory cannot be the call's `what`
///                                         ("input", "output"); asked in each call, so quick, and safe in a capture
template <class T>
concept symmetric_transport_policy =
    policy_of<T, transport_tag> && requires(T& transport, const T& constant, Meeting& meeting, const Options& options,
                                            std::span<const Identity> ranks, const void* pointer, std::size_t bytes) {
      typename T::channel_type;
      typename T::allocation_type;
      { T::name } -> std::convertible_to<std::string_view>;
      { T::max_world_size } -> std::convertible_to<int>;
      { T::device } -> std::convertible_to<bool>;
      { T::largest_packet_element } -> std::convertible_to<std::size_t>;
      { constant.identity() } -> std::same_as<Identity>;
      { constant.refusal(ranks) } -> std::same_as<std::string>;
      transport.connect(meeting, ranks, options);
      { transport.allocate(meeting, bytes, std::uint32_t{1}) } -> std::same_as<typename T::allocation_type>;
      constant.find(pointer, bytes);
      { constant.staging_bytes() } -> std::same_as<std::size_t>;
      { transport.channel(0) } -> std::same_as<typename T::channel_type&>;
      constant.failure();
      { transport.leave() } noexcept;
    };

/// Moves messages between ranks, on whatever hosts.
///
///   name, max_world_size, identity(), refusal(identities)     as above
///   max_channels
///   endpoint_type                         one call's way to the peers: allfold::endpoint (algo/message/endpoint.hpp)
///   progress_type                         who makes progress, and for whom (launch/message_progress.hpp)
///   connect(meeting, identities, options) learns the others' addresses; proves that messages arrive at every rank
///   progress() -> progress_type&          once connected; what has it is made by make_progressing() if it has a thread
///   link()                                what endpoints are made of, with a CollectiveId or a MessageId; `failed()`
///                                         and `throw_failure(where, timeout, earlier)` tell how the ranks are
///   leave()                               tells peers that this rank destroys its communicator, and ends what is under
///                                         way; noexcept
template <class T>
concept message_transport_policy =
    policy_of<T, transport_tag> && requires(T& transport, const T& constant, Meeting& meeting,
                                            const MessageOptions& options, std::span<const Identity> ranks) {
      typename T::endpoint_type;
      typename T::progress_type;
      { T::name } -> std::convertible_to<std::string_view>;
      { T::max_world_size } -> std::convertible_to<int>;
      { T::max_channels } -> std::convertible_to<int>;
      { constant.identity() } -> std::same_as<Identity>;
      { constant.refusal(ranks) } -> std::same_as<std::string>;
      transport.connect(meeting, ranks, options);
      { transport.progress() } -> std::same_as<typename T::progress_type&>;
      { transport.link().failed() } -> std::same_as<bool>;
      { transport.leave() } noexcept;
    };

/// Either family; the communicator goes by it.
template <class T>
concept transport_policy = symmetric_transport_policy<T> || message_transport_policy<T>;

}  // namespace allfold
