// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Who takes part in a run on GPUs.

#include <memory>

#include <allfold/base/environment.hpp>
#include <allfold/store/tcp.hpp>

#include "../subject.hpp"
#include "gpu.cuh"
#include "operands.cuh"

namespace bench {

/// allfold, of one element type. Collective: symmetric memory is allocated.
std::unique_ptr<Subject> make_float_subject(std::shared_ptr<Gpu> gpu, const allfold::Environment& environment,
                                            allfold::TcpStore& store);
std::unique_ptr<Subject> make_float16_subject(std::shared_ptr<Gpu> gpu, const allfold::Environment& environment,
                                              allfold::TcpStore& store);
std::unique_ptr<Subject> make_bfloat16_subject(std::shared_ptr<Gpu> gpu, const allfold::Environment& environment,
                                               allfold::TcpStore& store);

/// NCCL, on memory of cudaMalloc or on registered symmetric windows of its own. Absent if its library is, or if it is
/// too old for windows. Collective.
std::unique_ptr<Subject> make_nccl_subject(std::shared_ptr<Gpu> gpu, bool symmetric, allfold::TcpStore& store);

/// What the ranks of a plan sum at one size.
inline Operands operands(const Gpu& gpu, std::size_t count) {
  return {.type = gpu.plan().type,
          .count = count,
          .world_size = gpu.comm().world_size(),
          .whole_numbers = gpu.whole_numbers()};
}

}  // namespace bench
