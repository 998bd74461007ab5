// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <allfold/algo/message/endpoint.hpp>

/// Messages of users.

namespace allfold::message {

template <endpoint E>
Task<bool> send(E& e, int to, const void* from, std::size_t bytes) {
  auto departure = e.send(to, 0, from, bytes);
  co_return co_await ended(departure);
}

/// From a rank, or from any_source; `source` becomes the rank that it came from.
template <endpoint E>
Task<bool> receive(E& e, int from, void* to, std::size_t bytes, int& source) {
  auto arrival = e.receive(from, 0, to, bytes);
  if (!co_await ended(arrival)) co_return false;
  source = from == any_source ? arrival.source() : from;
  co_return true;
}

}  // namespace allfold::message
