// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>

namespace allfold {

/// Makes a device current for a scope, in which this thread may call what would end a capture that another thread has
/// under way: events that are asked, memory that is allocated.
class CudaScope {
 public:
  explicit CudaScope(int device) noexcept : device_(device) {}

 private:
  class RelaxedCapture {
   public:
    RelaxedCapture() noexcept { exchange(); }
    RelaxedCapture(const RelaxedCapture&) = delete;
    RelaxedCapture& operator=(const RelaxedCapture&) = delete;
    ~RelaxedCapture() { exchange(); }

   private:
    void exchange() noexcept { static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_)); }
    cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
  };

  RelaxedCapture capture_;  // around the other, for to change the device may make a context
  DeviceGuard device_;
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
