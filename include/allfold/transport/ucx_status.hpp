// SPDX-License-Identifier: Apache-2.0
#pragma once

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

}  // namespace detail
}  // namespace allfold
