// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <allfold/base/config.hpp>
#include <allfold/base/error.hpp>

namespace allfold {

[[noreturn]] ALLFOLD_COLD inline void throw_cuda(const Where& where, cudaError_t error, TextPieces what) {
  static_cast<void>(cudaGetLastError());  // else the next check of somebody else's would find it
  throw CudaError(where, error, cudaGetErrorName(error), what);
}

/// Throws CudaError unless a call of the runtime succeeded.
inline void check_cuda(const Where& where, cudaError_t error, TextPieces what) {
  if (error != cudaSuccess) throw_cuda(where, error, what);
}

/// Makes a device current, and the former one again at the end of the scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) noexcept {
    if (cudaGetDevice(&former_) != cudaSuccess || former_ == device) {
      former_ = -1;
    } else {
      static_cast<void>(cudaSetDevice(device));
    }
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  ~DeviceGuard() {
    if (former_ >= 0) static_cast<void>(cudaSetDevice(former_));
  }

 private:
  int former_ = -1;
};

}  // namespace allfold
