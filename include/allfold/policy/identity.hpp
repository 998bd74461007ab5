// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>

namespace allfold {

/// What a rank says of itself at rendezvous. Plain bytes: it travels through the store.
struct Identity {
  char host_name[64] = {};          ///< for messages only: two hosts may bear one name
  std::uint64_t host = 0;           ///< one kernel that booted once (its boot id)
  std::uint64_t namespaces = 0;     ///< the namespaces that sharing memory depends on: net, pid, user, time
  std::uint64_t process_start = 0;  ///< tells a process from a later one of the same number
  std::int32_t process = 0;         ///< process number in its namespace
  std::int32_t device = -1;         ///< the GPU's ordinal in this process; -1: the rank computes on a CPU
  char device_id[16] = {};          ///< the GPU's UUID

  bool same_host(const Identity& other) const noexcept { return host == other.host && namespaces == other.namespaces; }
  bool same_process(const Identity& other) const noexcept {
    return same_host(other) && process == other.process && process_start == other.process_start;
  }
  /// Both compute on one GPU.
  bool same_device(const Identity& other) const noexcept {
    return std::memcmp(device_id, other.device_id, sizeof device_id) == 0;
  }
};

}  // namespace allfold
