// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <allfold/base/config.hpp>
#include <allfold/base/cuda_check.cuh>
#include <allfold/base/error.hpp>

namespace allfold {

/// The functions of CUDA that the runtime lacks, or is slower at: the driver's, found at run time, so that a program
/// need not link libcuda. A stand-in for a driver that is not at hand fills in its own.
struct CudaDriver {
  decltype(&cuGetErrorName) error_name = nullptr;
  decltype(&cuDeviceGet) device = nullptr;
  decltype(&cuDeviceGetAttribute) device_attribute = nullptr;
  decltype(&cuMemGetAllocationGranularity) granularity = nullptr;
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemExportToShareableHandle) export_handle = nullptr;
  decltype(&cuMemImportFromShareableHandle) import_handle = nullptr;
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) free_address = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;
  decltype(&cuPointerGetAttributes) pointer_attributes = nullptr;
  decltype(&cuStreamWaitValue32) wait_for_word = nullptr;
  decltype(&cuLaunchKernelEx) launch = nullptr;
  /// Of the runtime, which a thread may call first: sets memory to zero, and returns when it is.
  cudaError_t (*clear)(void* memory, std::size_t bytes) = nullptr;

  /// @throws CudaError if the driver is too old for one of them.
  ALLFOLD_COLD static CudaDriver load(const Where& where) {
    CudaDriver driver;
    find(where, "cuGetErrorName", driver.error_name);
    find(where, "cuDeviceGet", driver.device);
    find(where, "cuDeviceGetAttribute", driver.device_attribute);
    find(where, "cuMemGetAllocationGranularity", driver.granularity);
    find(where, "cuMemCreate", driver.create);
    find(where, "cuMemRelease", driver.release);
    find(where, "cuMemExportToShareableHandle", driver.export_handle);
    find(where, "cuMemImportFromShareableHandle", driver.import_handle);
    find(where, "cuMemAddressReserve", driver.reserve);
    find(where, "cuMemAddressFree", driver.free_address);
    find(where, "cuMemMap", driver.map);
    find(where, "cuMemUnmap", driver.unmap);
    find(where, "cuMemSetAccess", driver.set_access);
    find(where, "cuPointerGetAttributes", driver.pointer_attributes);
    find(where, "cuStreamWaitValue32", driver.wait_for_word);
    find(where, "cuLaunchKernelEx", driver.launch);
    driver.clear = [](void* memory, std::size_t bytes) {
      const cudaError_t error = cudaMemset(memory, 0, bytes);
      return error == cudaSuccess ? cudaDeviceSynchronize() : error;
    };
    return driver;
  }

  /// Throws CudaError unless a call of the driver succeeded.
  void check(const Where& where, CUresult result, TextPieces what) const {
    if (result == CUDA_SUCCESS) return;
    const char* name = nullptr;
    if (error_name(result, &name) != CUDA_SUCCESS || name == nullptr) name = "an unknown error";
    throw CudaError(where, result, name, what);
  }

 private:
  template <class Function>
  static void find(const Where& where, const char* name, Function*& function) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult state = cudaDriverEntryPointSymbolNotFound;
    check_cuda(where, cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &state),
               {"the CUDA driver could not be asked for ", name});
    if (state != cudaDriverEntryPointSuccess || found == nullptr) {
      throw_cuda(where, cudaErrorInsufficientDriver,
                 {"the CUDA driver has no ", name, "; expected CUDA 12 or later; try a newer driver"});
    }
    function = reinterpret_cast<Function*>(found);
  }
};

}  // namespace allfold
