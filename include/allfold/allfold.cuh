// SPDX-License-Identifier: Apache-2.0
#pragma once

#if !defined(__CUDACC__)
#error "allfold: allfold.cuh is for programs compiled by nvcc; include <allfold/allfold.hpp> in the others"
#endif

/// allfold in a program compiled by nvcc: what allfold.hpp has, and GPU ranks.

#include <allfold/allfold.hpp>
#include <allfold/interop/cuda_floats.cuh>
#include <allfold/topology/nvml.hpp>
#include <allfold/topology/peer_access.cuh>
#include <allfold/transport/nvlink.cuh>
