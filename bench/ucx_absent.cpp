// SPDX-License-Identifier: Apache-2.0

/// Stands for ucx_subject.cpp where there is no UCX.

#include <stdexcept>

#include "ucx_subject.hpp"

namespace bench {

const bool built_with_ucx = false;

std::unique_ptr<Subject> make_ucx_subject(const allfold::Environment& /*environment*/, const Plan& /*plan*/,
                                          Comm& /*comm*/, allfold::TcpStore& /*store*/) {
  throw std::runtime_error("allfold_perf: built without UCX; install it and configure again");
}

}  // namespace bench
