// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <allfold/base/cuda_check.cuh>
#include <allfold/memory/cuda_driver.cuh>

namespace allfold {

/// What CUDA knows of the memory at an address.
struct DevicePointer {
  enum class Kind : std::uint8_t {
    unasked,  ///< CUDA gave no answer: as before its first use by a thread
    foreign,  ///< memory of the host that CUDA knows nothing of
    pinned,   ///< memory of the host that GPUs reach
    managed,
    device,
  };

  Kind kind = Kind::unasked;
  int device = -1;

  /// One call of the driver, which a stream capture allows.
  static DevicePointer of(const CudaDriver& driver, const void* pointer) noexcept {
    CUpointer_attribute attributes[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_IS_MANAGED,
                                        CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
    unsigned type = 0;
    std::uint64_t is_managed = 0;  // "a boolean", of a size that is not said
    int ordinal = -1;
    void* answers[] = {&type, &is_managed, &ordinal};
    if (driver.pointer_attributes(3, attributes, answers, reinterpret_cast<CUdeviceptr>(pointer)) != CUDA_SUCCESS) {
      return {};
    }
    if (is_managed != 0) return {Kind::managed, ordinal};
    switch (type) {
      case 0: return {Kind::foreign, -1};
      case CU_MEMORYTYPE_HOST: return {Kind::pinned, ordinal};
      default: return {Kind::device, ordinal};
    }
  }
};

[[noreturn]] ALLFOLD_COLD inline void throw_unreached(const Where& where, std::string_view what, DevicePointer pointer,
                                                      int device) {
  const bool on_host = pointer.kind == DevicePointer::Kind::foreign;
  const std::string place =
      on_host ? "host memory that the GPU cannot reach" : concat({"memory of device ", pointer.device});
  throw UsageError(where, {"the ", what, " is ", place, "; expected memory of device ", device,
                           "; try cudaMalloc on that device, or allocate"});
}

/// Throws UsageError if kernels on `device` cannot load from and store to the memory, which is the call's `what`.
/// `reaches_pageable`: the device reaches any memory of the host.
inline void check_reached(const Where& where, std::string_view what, DevicePointer pointer, int device,
                          bool reaches_pageable) {
  const bool elsewhere = pointer.kind == DevicePointer::Kind::device && pointer.device != device;
  const bool on_host = pointer.kind == DevicePointer::Kind::foreign && !reaches_pageable;
  if (elsewhere || on_host) throw_unreached(where, what, pointer, device);
}

}  // namespace allfold
