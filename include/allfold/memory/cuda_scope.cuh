// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>

namespace allfold {

/// Makes a device current for a scope, in which this thread may call what would end a capture that another thread has under
/// way: events that are asked, memory that is allocated.
class CudaScope {
 public:
  explicit CudaScope(int device) noexcept : device_(device) {
    static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_));
  }
  CudaScope(const CudaScope&) = delete;
  CudaScope& operator=(const CudaScope&) = delete;
  ~CudaScope() { static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_)); }

 private:
  DeviceGuard device_;
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

/// Throws UsageError for a stream that is being captured: a call that needs the host cannot be replayed.
inline void check_not_captured(const Where& where, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(stream, &status);
  if (error != cudaSuccess && error != cudaErrorStreamCaptureImplicit) {
    throw_cuda(where, error, {"the stream cannot be used; expected one of the communicator's GPU"});
  }
  if (error == cudaSuccess && status == cudaStreamCaptureStatusNone) return;
  static_cast<void>(cudaGetLastError());
  throw UsageError(where,
                   {"the stream is under capture; expected one that runs, for messages need the host and cannot be ",
                    "replayed; call outside of the capture, or use NvlinkTransport on one host"});
}

}  // namespace allfold
