// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

#include <ucs/type/status.h>

#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>

namespace allfold {

/// UCX refused; `status()` is its ucs_status_t.
class UcxError : public Error {
 public:
  ALLFOLD_COLD UcxError(const Where& where, ucs_status_t status, TextPieces what)
      : Error(ErrorCode::ucx, where,
              {concat(what), ": ", ::ucs_status_string(status), " (UCX status ", static_cast<int>(status), ")"}),
        status_(status) {}

  ucs_status_t status() const noexcept { return status_; }

 private:
  ucs_status_t status_;
};

namespace detail {

inline void check_ucx(const Where& where, ucs_status_t status, TextPieces what) {
  if (status != UCS_OK) throw UcxError(where, status, what);
}

/// Whether UCX may take shared memory, as far as UCX_TLS says.
ALLFOLD_COLD inline bool may_share_memory() noexcept {
  const char* const ways = std::getenv("UCX_TLS");
  if (ways == nullptr) return true;
  for (const char* way : {"all", "sm", "shm", "mm", "posix", "sysv"}) {
    if (std::strstr(ways, way) != nullptr) return true;
  }
  return false;
}

/// The longest receive buffer that the host lets a socket ask for; 0 if it does not tell.
ALLFOLD_COLD inline long longest_receive_buffer() noexcept {
  const UniqueFd file(::open("/proc/sys/net/core/rmem_max", O_RDONLY | O_CLOEXEC));
  char text[32] = {};
  return file && ::read(file.get(), text, sizeof text - 1) > 0 ? std::strtol(text, nullptr, 10) : 0;
}

/// What UCX reads from the environment alone, as it is initialized: set where the user has not.
ALLFOLD_COLD inline void set_ucx_environment() noexcept {
  // Over shared memory a dead peer is noticed by keepalive, which is 20 s apart by default.
  ::setenv("UCX_KEEPALIVE_INTERVAL", "200ms", 0);
  // A piece of a long message fits one segment (docs/decisions/0012-ucx-constants.md). UCX refuses to receive shorter
  // segments than it sends, so a user's choice of either stands alone.
  if (std::getenv("UCX_TCP_TX_SEG_SIZE") == nullptr && std::getenv("UCX_TCP_RX_SEG_SIZE") == nullptr) {
    ::setenv("UCX_TCP_TX_SEG_SIZE", "144k", 0);
    ::setenv("UCX_TCP_RX_SEG_SIZE", "144k", 0);
  }
  // A window that grows with use makes bbr take the receiver for a slow wire, and it paces what follows to that.
  if (longest_receive_buffer() >= 4 << 20) ::setenv("UCX_TCP_RCVBUF", "4m", 0);
  // Else an address from which no answer comes holds up the rank for minutes, as its endpoint is created.
  ::setenv("UCX_TCP_CONN_NB", "y", 0);
  // Over TCP no memory of the user's is sent without a copy: if the peer dies while the rest of such a message waits
  // for room, UCX (1.13 to 1.22 at least) completes it twice, which ends the process or breaks another message
  // (docs/decisions/0011-ucx-endpoints.md).
  ::setenv("UCX_TCP_MAX_IOV", "0", 0);
  // Endpoints that report errors leave out shared memory unless it is told to take part (openucx/ucx 6595, 8477). Where
  // it takes no part UCX would warn of variables without a use.
  if (!may_share_memory()) return;
  ::setenv("UCX_POSIX_ERROR_HANDLING", "y", 0);
  ::setenv("UCX_SYSV_ERROR_HANDLING", "y", 0);
}

}  // namespace detail
}  // namespace allfold
