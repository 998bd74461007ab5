// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <allfold/base/config.hpp>
#include <allfold/base/cuda_arch.cuh>
#include <allfold/base/cuda_check.cuh>
#include <allfold/memory/cuda_scope.cuh>

namespace allfold {

/// The kernels of one channel as the driver knows them: looked up once, where a launch by the runtime begins with the
/// symbol each time. Used by one thread at a time, as the channel is.
class CudaFunctions {
 public:
  explicit CudaFunctions(int device) noexcept : device_(device) {}

  /// The driver's handle of the kernel with that symbol; null if it was not looked up yet.
  ALLFOLD_HIDDEN CUfunction find(const void* kernel) noexcept {
    if (last_ < known_.size() && known_[last_].kernel == kernel) return known_[last_].function;
    for (last_ = 0; last_ < known_.size(); ++last_) {
      if (known_[last_].kernel == kernel) return known_[last_].function;
    }
    return nullptr;
  }

  /// Looks it up; also in a capture.
  ALLFOLD_HIDDEN ALLFOLD_COLD CUfunction look_up(const Where& where, const void* kernel) {
    const CudaScope scope(device_);
    cudaFunction_t function = nullptr;
    check_cuda(
        where, cudaGetFuncBySymbol(&function, kernel),
        {"the kernel could not be loaded; see whether this program has code for the architecture of device ", device_});
    known_.push_back({kernel, function});
    return function;
  }

 private:
  struct Known {
    const void* kernel;
    CUfunction function;
  };

  std::vector<Known> known_;
  std::size_t last_ = 0;  ///< where to look first: calls come again
  int device_;
};

}  // namespace allfold
