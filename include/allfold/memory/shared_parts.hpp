// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include <allfold/memory/descriptor_exchange.hpp>
#include <allfold/memory/mapping.hpp>
#include <allfold/memory/window.hpp>
#include <allfold/policy/meeting.hpp>

namespace allfold {

/// One part of memory per rank, all of them mapped here. Parts live as long as any rank maps them.
struct SharedParts {
  std::shared_ptr<Mapping> part[max_window_ranks];

  Window window(std::size_t bytes, std::uint64_t serial, int world_size) const noexcept {
    return Window::over(part, bytes, serial, world_size);
  }
};

/// Shares the parts of ranks that are threads of one process, by pointer: each passes its own.
ALLFOLD_COLD inline SharedParts share_among_threads(Meeting& meeting, std::shared_ptr<Mapping> mine) {
  using Part = std::shared_ptr<Mapping>;
  // On the heap, and left there if the meeting fails: a peer may be copying it while this rank unwinds.
  const Part* offer = new Part(std::move(mine));
  SharedParts shared;
  const std::vector<const Part*> offers = meeting.all_gather("share memory", offer);
  for (int r = 0; r < meeting.world_size(); ++r) shared.part[r] = *offers[static_cast<std::size_t>(r)];
  meeting.barrier("memory is shared");
  delete offer;
  return shared;
}

/// Makes them too: plain memory.
ALLFOLD_COLD inline SharedParts share_among_threads(Meeting& meeting, std::size_t bytes) {
  return share_among_threads(meeting, std::make_shared<Mapping>(map_private(meeting.where(), bytes)));
}

/// Makes the parts of ranks in several processes of one host: each makes a shared segment without a name and passes
/// its descriptor to all. `addresses`: [world_size]; `serial` tells this exchange from others.
ALLFOLD_COLD inline SharedParts share_among_processes(Meeting& meeting, DescriptorExchange& exchange,
                                                      const std::vector<ExchangeAddress>& addresses,
                                                      std::uint32_t serial, std::size_t bytes) {
  const Where where = meeting.where();
  const int me = meeting.rank();
  const UniqueFd segment = create_shared_segment(where, bytes);
  SharedParts shared;
  shared.part[me] = std::make_shared<Mapping>(map_shared(where, segment.get(), bytes));
  for (int r = 0; r < meeting.world_size(); ++r) {
    if (r == me) continue;
    exchange.send(where, addresses[static_cast<std::size_t>(r)], exchange_tag(serial, me), r, segment.get(),
                  meeting.deadline());
  }
  // Whoever failed to make its segment says so here, before anyone waits for its descriptor.
  meeting.barrier("share memory");
  for (int r = 0; r < meeting.world_size(); ++r) {
    if (r == me) continue;
    const UniqueFd theirs = exchange.receive(where, exchange_tag(serial, r), r, meeting.deadline());
    shared.part[r] = std::make_shared<Mapping>(map_shared(where, theirs.get(), bytes));
  }
  meeting.barrier("memory is shared");
  return shared;
}

}  // namespace allfold
