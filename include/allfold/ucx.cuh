// SPDX-License-Identifier: Apache-2.0
#pragma once

#if !defined(__CUDACC__)
#error "allfold: ucx.cuh is for programs compiled by nvcc; include <allfold/ucx.hpp> in the others"
#endif

/// allfold over UCX in a program compiled by nvcc: what ucx.hpp and allfold.cuh have, and UcxCudaTransport and
/// UcxCudaThreadTransport, whose calls may have memory of a GPU. A program that includes it links allfold::ucx.

#include <allfold/allfold.cuh>
#include <allfold/transport/ucx_cuda.cuh>
#include <allfold/ucx.hpp>
