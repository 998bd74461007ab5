// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <initializer_list>
#include <string>
#include <type_traits>

#include <allfold/ucx.hpp>
#include <support/ranks.hpp>

namespace allfold_test {

/// What UCX_TLS is to be for the ranks that this process starts; empty: UCX's own choice.
inline void take_ways(const char* ways) { *ways == '\0' ? ::unsetenv("UCX_TLS") : ::setenv("UCX_TLS", ways, 1); }

template <class Body>
void call_with(Body& body, auto& comm, const allfold::Environment& environment) {
  if constexpr (std::is_invocable_v<Body&, decltype(comm), const allfold::Environment&>) {
    body(comm, environment);
  } else {
    body(comm);
  }
}

/// Runs `body(communicator)`, or `body(communicator, environment)`, in a process a rank: over TCP with progress by the
/// caller, and over what UCX takes on one host with a thread.
template <class Body>
void over_ucx(std::initializer_list<int> world_sizes, Body&& body, const allfold::MessageOptions& message_options = {},
              const allfold::Options& options = {.timeout = std::chrono::seconds(20)},
              const allfold::SourceLocation& at = allfold::SourceLocation::current()) {
  take_ways("tcp");
  over_processes(
      world_sizes,
      [&](const allfold::Environment& environment) {
        auto comm = allfold::Communicator<allfold::UcxTransport>::create(environment, options, message_options);
        call_with(body, comm, environment);
      },
      rank_timeout, at);
  take_ways("");
  over_processes(
      world_sizes,
      [&](const allfold::Environment& environment) {
        auto comm = allfold::Communicator<allfold::UcxThreadTransport>::create(environment, options, message_options);
        call_with(body, comm, environment);
      },
      rank_timeout, at);
}

}  // namespace allfold_test
