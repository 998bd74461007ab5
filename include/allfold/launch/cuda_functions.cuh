// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <allfold/base/config.hpp>
#include <allfold/memory/cuda_scope.cuh>

namespace allfold {

/// The kernels of one device as the driver knows them. The runtime looks a kernel up in each launch, which takes a tenth
/// of the host's time for it; here it is looked up once.
class CudaFunctions {
 public:
  explicit CudaFunctions(int device) noexcept : device_(device) {}

  /// The driver's handle of the kernel with that symbol; null where the runtime has none to give.
  CUfunction find(const void* kernel) {
    if (last_ < known_.size() && known_[last_].kernel == kernel) return known_[last_].function;
    for (last_ = 0; last_ < known_.size(); ++last_) {
      if (known_[last_].kernel == kernel) return known_[last_].function;
    }
    return look_up(kernel);
  }

 private:
  struct Known {
    const void* kernel;
    CUfunction function;
  };

  ALLFOLD_COLD CUfunction look_up(const void* kernel) {
    const CudaScope scope(device_);
    cudaFunction_t function = nullptr;
    if (cudaGetFuncBySymbol(&function, kernel) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      return nullptr;
    }
    known_.push_back({kernel, function});
    return function;
  }

  std::vector<Known> known_;
  std::size_t last_ = 0;  ///< where to look first: calls come again
  int device_;
};

}  // namespace allfold
