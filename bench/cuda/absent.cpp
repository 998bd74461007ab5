// SPDX-License-Identifier: Apache-2.0

/// Stands for the .cu files where there is no CUDA.

#include <stdexcept>

#include "field.hpp"

namespace bench {

const bool built_with_cuda = false;

int gpus_in_reach() { return 0; }

Field cuda_field(const allfold::Environment& /*environment*/, const Plan& /*plan*/, Comm& /*comm*/,
                 allfold::TcpStore& /*store*/) {
  throw std::runtime_error("allfold_perf: built without CUDA; configure with -DALLFOLD_CUDA=ON");
}

}  // namespace bench
