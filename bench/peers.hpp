// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Other libraries, each in processes of its own that sleep until it is their turn.

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include <allfold/base/unique_fd.hpp>

#include "peer_protocol.hpp"
#include "plan.hpp"

namespace bench {

/// One way to run Open MPI: the arguments of mpirun that choose how bytes move.
struct PeerKind {
  const char* name;
  Transport beside;                       ///< it is a peer of ranks with that transport
  std::array<const char*, 12> arguments;  ///< ends at the first null
};

// Open MPI drops UCX where it finds no network of its list, unless told that any will do.
inline constexpr std::array<PeerKind, 5> peer_kinds = {{
    {"vader", Transport::shm, {"--mca", "pml", "ob1", "--mca", "btl", "self,vader"}},
    {"ucx_posix",
     Transport::shm,
     {"--mca", "pml", "ucx", "--mca", "opal_common_ucx_tls", "any", "--mca", "opal_common_ucx_devices", "any", "-x",
      "UCX_TLS=posix,cma,self"}},
    {"ucx_sysv",
     Transport::shm,
     {"--mca", "pml", "ucx", "--mca", "opal_common_ucx_tls", "any", "--mca", "opal_common_ucx_devices", "any", "-x",
      "UCX_TLS=sysv,cma,self"}},
    {"btl_tcp", Transport::ucx, {"--mca", "pml", "ob1", "--mca", "btl", "tcp,self"}},
    {"ucx_tcp",
     Transport::ucx,
     {"--mca", "pml", "ucx", "--mca", "opal_common_ucx_tls", "any", "--mca", "opal_common_ucx_devices", "any", "-x",
      "UCX_TLS=tcp,self"}},
}};

/// A peer program with all its ranks. Owns the processes and the pipes; the destructor ends them.
class Peer {
 public:
  /// Starts it and waits until its ranks are ready. @throws std::runtime_error with what mpirun said.
  Peer(std::string_view name, const Plan& plan);
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  ~Peer();

  const std::string& name() const { return name_; }
  /// Whether it knows the type and the operator.
  static bool can_run(ElementType type, Operator op);
  /// One turn, to its end. Called by one rank only, which may be in a forked process.
  PeerReply run(const PeerCommand& command);

 private:
  PeerReply receive(double timeout_s);
  std::string log() const;
  void stop() noexcept;

  std::string name_;
  std::string directory_;
  std::vector<allfold::UniqueFd> commands_;
  allfold::UniqueFd replies_;
  allfold::UniqueFd alive_;  ///< readable once mpirun has ended
  pid_t process_ = -1;
  pid_t owner_ = -1;
  double timeout_s_;
};

}  // namespace bench
