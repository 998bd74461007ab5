// SPDX-License-Identifier: Apache-2.0
#pragma once

/// What the rest of the program sees of GPUs. Without CUDA, absent.cpp stands in.

#include <allfold/base/environment.hpp>
#include <allfold/store/tcp.hpp>

#include "../host_subject.hpp"
#include "../subject.hpp"

namespace bench {

/// Whether this program was built with CUDA.
extern const bool built_with_cuda;

/// How many GPUs of this host, the first and those after it, reach one another's memory; 8 at most. Asked in a child
/// process: whoever has touched CUDA cannot fork ranks that use it.
int gpus_in_reach();

/// allfold on this rank's GPU, and NCCL as its peer, plain and with symmetric windows. Collective.
/// @throws std::runtime_error without CUDA, allfold::Error if the GPUs cannot meet.
Field cuda_field(const allfold::Environment& environment, const Plan& plan, Comm& comm, allfold::TcpStore& store);

}  // namespace bench
