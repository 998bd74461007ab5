// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sched.h>

#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/policy/meeting.hpp>
#include <allfold/transport/ucx_operations.hpp>
#include <allfold/transport/ucx_tag.hpp>
#include <allfold/transport/ucx_worker.hpp>

namespace allfold::detail {

/// Up to so many ranks greet all others; in larger worlds each greets those at a distance of a power of two, which most
/// algorithms talk to, and what else is needed is connected by the first messages.
inline constexpr int ranks_that_all_greet = 64;

/// Whether two ranks exchange a word before anything else.
constexpr bool greet_each_other(int one, int other, int world_size) noexcept {
  if (one == other) return false;
  if (world_size <= ranks_that_all_greet) return true;
  const auto power_of_two = [](int n) { return (n & (n - 1)) == 0; };
  const int ahead = (other - one + world_size) % world_size;
  return power_of_two(ahead) || power_of_two(world_size - ahead);
}

/// Exchanges words with other ranks, twice, and returns when all have arrived: who cannot be reached is found now, not
/// by the first call. The second word follows what UCX sends to complete a connection. UCX 1.13 ends the process if a
/// worker is destroyed beside a connection that is half made, as it is when a rank dies meanwhile.
/// Collective. `tag`: of no other message.
/// @throws TimeoutError or PeerError that names the rank which cannot be reached
ALLFOLD_COLD inline void greet(UcxWorker& worker, UcxOperations& operations, std::uint64_t tag, Meeting& meeting) {
  struct Greeting {
    int peer;
    UcxOperation* heard;
    UcxOperation* sent;  ///< null: at once
    bool over() const noexcept { return heard->over && (sent == nullptr || sent->over); }
  };
  const Deadline deadline = meeting.deadline();
  const Duration timeout = deadline.remaining();
  const int ranks = worker.world_size();
  const char mine = 1;
  std::vector<char> theirs(static_cast<std::size_t>(ranks));
  std::vector<Greeting> greetings;
  const auto drop_all = [&] {
    for (const Greeting& greeting : greetings) {
      operations.drop(greeting.heard);
      if (greeting.sent != nullptr) operations.drop(greeting.sent);
    }
    greetings.clear();
  };
  const auto refuse = [&](int peer, std::string_view what) {
    operations.end_all(worker.clients() > 0);
    worker.end_if_closed({ErrorCode::peer, peer});
    drop_all();
    const std::string text =
        concat({"rank ", peer, what, "; expected its greeting through UCX within ", milliseconds(timeout),
                " ms; see whether it still runs, and whether UCX_NET_DEVICES and UCX_TLS name a network that both ",
                "ranks are on"});
    if (deadline.expired()) throw TimeoutError(meeting.where(), peer, {text});
    throw PeerError(meeting.where(), peer, {text});
  };

  for (const int round : {1, 2}) {
    for (int peer = 0; peer < ranks; ++peer) {
      if (!greet_each_other(worker.rank(), peer, ranks)) continue;
      char* const to = &theirs[static_cast<std::size_t>(peer)];
      greetings.push_back({peer, operations.receive(peer, UcxTag::message(tag, round, peer), to, 1),
                           operations.send(peer, UcxTag::message(tag, round, worker.rank()), &mine, 1)});
    }
    for (bool all_over = false; !all_over;) {
      if (worker.progress() == 0) ::sched_yield();
      const bool late = deadline.expired();
      all_over = true;
      for (const Greeting& greeting : greetings) {
        if (greeting.over()) continue;
        all_over = false;
        if (worker.broken(greeting.peer)) refuse(greeting.peer, " is gone or out of reach");
        if (late) refuse(greeting.peer, " cannot be reached");
      }
    }
    drop_all();
  }
}

}  // namespace allfold::detail
