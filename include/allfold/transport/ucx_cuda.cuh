// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include <allfold/launch/message_progress.hpp>
#include <allfold/policy/transport.hpp>
#include <allfold/transport/ucx.hpp>
#include <allfold/transport/ucx_cuda_endpoint.cuh>
#include <allfold/transport/ucx_cuda_link.cuh>

namespace allfold {

inline namespace ALLFOLD_ARCH_NAMESPACE {

/// What a transport over UCX is made of, for memory of the host and of GPUs.
struct UcxCudaParts {
  using worker_type = UcxCudaWorker;
  using link_type = UcxCudaLink;
  using endpoint_type = UcxCudaEndpoint;
  static constexpr std::string_view name = "ucx of GPUs";
};

/// BasicUcxTransport, whose calls may also have memory of the GPU that is current when the communicator is created: all
/// buffers of a call there, or all of them on the host, and alike on all ranks. Memory of the GPU is handed to UCX as
/// it is where UCX knows CUDA on every rank, else it goes through pinned memory of the host; see MessageOptions::cuda.
///
/// A call waits for what CallOptions::stream was given before it; without CallOptions::async its output is there when
/// it returns, else after Work::wait, or on a stream after Work::wait(stream). Operators are callable in kernels.
template <template <class> class Progress>
using BasicUcxCudaTransport = BasicUcxTransport<Progress, UcxCudaParts>;

/// The caller makes progress.
using UcxCudaTransport = BasicUcxCudaTransport<CallerProgress>;
/// Communication goes on while the caller computes; streams can wait for it without the host.
using UcxCudaThreadTransport = BasicUcxCudaTransport<ThreadProgress>;

static_assert(message_transport_policy<UcxCudaTransport>);
static_assert(message_transport_policy<UcxCudaThreadTransport>);

}  // namespace ALLFOLD_ARCH_NAMESPACE

}  // namespace allfold
