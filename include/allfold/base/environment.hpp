// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include <allfold/base/unique_fd.hpp>

namespace allfold {

/// A listening socket that the stores which rank 0 serves one after another, or side by side, have in common.
struct SharedListener {
  std::mutex mutex;
  UniqueFd socket;
};

/// Who a rank is and where it meets the others: what a launcher tells each process. Filled by `environment()`
/// (spawn/bootstrap.hpp) from torchrun's, Open MPI's, MPICH's or SLURM's variables, by `launch()`, or by hand.
struct Environment {
  /// This rank, 0 to world_size - 1, and the number of ranks of the job.
  int rank = 0;
  int world_size = 1;
  /// This rank's index among the ranks of its host, and how many they are.
  int local_rank = 0;
  int local_world_size = 1;
  /// Where rank 0 serves a TcpStore: a host name or an IPv4 or IPv6 address, and a port.
  std::string meeting_host = "127.0.0.1";
  std::uint16_t meeting_port = 29500;
  /// The directory of a FileStore.
  std::string meeting_directory;
  /// What both sides of a TcpStore must know, if it is not empty: it keeps strangers out.
  std::string secret;
  /// Set by `launch()`: the listening socket that rank 0's TcpStore serves instead of opening one. The receiver
  /// duplicates it; the launcher owns it.
  int listening_socket = -1;
  /// Opened by rank 0's first TcpStore otherwise; copies of an Environment share it, so that several communicators can
  /// be made from one.
  std::shared_ptr<SharedListener> listener = std::make_shared<SharedListener>();
  /// Distinguishes jobs that meet at the same point; part of every key.
  std::string job = "allfold";
};

}  // namespace allfold
