// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/spawn/outcome.hpp>
#include <allfold/spawn/process_ranks.hpp>
#include <allfold/spawn/thread_ranks.hpp>

namespace allfold {
namespace detail {

/// A socket that listens on a free port of the loopback interface.
ALLFOLD_COLD inline UniqueFd listen_on_loopback(std::uint16_t& port) {
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (!socket || ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      ::listen(socket.get(), SOMAXCONN) != 0 ||
      ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    throw SystemError("launch", errno, {"could not listen on 127.0.0.1"});
  }
  port = ntohs(address.sin_port);
  return socket;
}

ALLFOLD_COLD inline std::vector<Outcome> run_ranks(int world_size, RankBody body, const LaunchOptions& options) {
  if (world_size < 1) throw UsageError("launch", {"the number of ranks is ", world_size, "; expected at least 1"});
  Environment environment;
  UniqueFd listening = listen_on_loopback(environment.meeting_port);
  environment.world_size = environment.local_world_size = world_size;
  environment.meeting_directory = options.directory;
  environment.listening_socket = listening.get();
  // The port is ours while we listen, but a process number and a port may come back later.
  environment.job = concat({"launch-", static_cast<long long>(::getpid()), "-", unsigned{environment.meeting_port}, "-",
                            static_cast<long long>(std::chrono::system_clock::now().time_since_epoch().count())});
  std::vector<Environment> environments(static_cast<std::size_t>(world_size), environment);
  for (int rank = 0; rank < world_size; ++rank) {
    Environment& own = environments[static_cast<std::size_t>(rank)];
    own.rank = own.local_rank = rank;
  }
  return options.ranks == Ranks::processes ? run_processes(environments, body, std::move(listening), options)
                                           : run_threads(environments, body, options);
}

[[noreturn]] ALLFOLD_COLD inline void throw_outcome(const Outcome& outcome, int world_size) {
  const std::string text = concat({"rank ", outcome.rank, " of ", world_size, " failed: ", outcome.error});
  if (outcome.late) throw TimeoutError("launch", outcome.rank, {text});
  throw PeerError("launch", outcome.rank, {text});
}

/// The first failed rank is to blame, but never one that was killed for another's failure.
ALLFOLD_COLD inline void throw_first_failure(const std::vector<Outcome>& outcomes) {
  for (const Outcome& outcome : outcomes) {
    if (!outcome.ok() && !outcome.stopped) throw_outcome(outcome, static_cast<int>(outcomes.size()));
  }
}

}  // namespace detail

/// Runs `fn(const Environment&)` on `world_size` local ranks, waits for all, and tells how each ended.
///
/// All ranks run the same `fn`: as threads they share what it captures, as processes each has a copy. What `fn`
/// returns is dropped; an exception it throws becomes the rank's Outcome::error (its first 4095 bytes, from a
/// process). Rank processes are forked: start them before this process has threads or a CUDA context. They die with
/// the thread that called. Rank 0's TcpStore serves the socket that the launch opened on the loopback interface, so
/// concurrent launches never meet.
///
/// Units: LaunchOptions::timeout is a std::chrono duration, for all ranks together.   Blocks until all have ended: a
/// process that runs past the timeout is killed, a thread is reported on stderr and waited for without end.
/// @throws UsageError if `world_size` < 1, SystemError if the ranks cannot be started.
template <class F>
std::vector<Outcome> launch_outcomes(int world_size, F&& fn, const LaunchOptions& options = {}) {
  auto body = [&fn](const Environment& environment) { static_cast<void>(fn(environment)); };
  return detail::run_ranks(world_size, body, options);
}

/// Runs `fn(const Environment&)` on `world_size` local ranks and waits for all, like launch_outcomes().
/// @throws PeerError for the first rank that failed, TimeoutError if it was late; both carry `source_rank()` and the
///   rank's own message. UsageError, SystemError as launch_outcomes().
template <class F>
void launch(int world_size, F&& fn, const LaunchOptions& options = {}) {
  detail::throw_first_failure(launch_outcomes(world_size, fn, options));
}

}  // namespace allfold
