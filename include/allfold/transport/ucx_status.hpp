// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>

#include <ucs/type/status.h>

#include <allfold/base/error.hpp>

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

/// What UCX reads from the environment alone, as it is initialized: set where the user has not.
ALLFOLD_COLD inline void set_ucx_environment() noexcept {
  constexpr const char* settings[][2] = {
      // Endpoints that report errors leave out shared memory unless it is told to take part (openucx/ucx 6595, 8477).
      {"UCX_POSIX_ERROR_HANDLING", "y"},
      {"UCX_SYSV_ERROR_HANDLING", "y"},
      // Over shared memory a dead peer is noticed by keepalive, which is 20 s apart by default.
      {"UCX_KEEPALIVE_INTERVAL", "200ms"},
      // Collectives of 64 KiB over TCP take half the time that they take with the default of 8 KiB.
      {"UCX_TCP_TX_SEG_SIZE", "64k"},
  };
  for (const auto& [name, value] : settings) ::setenv(name, value, 0);
}

}  // namespace detail
}  // namespace allfold
