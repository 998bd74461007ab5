// SPDX-License-Identifier: Apache-2.0
#pragma once

/// allfold among CPU ranks over UCX. Where there is no UCX, ucx_absent.cpp stands in.

#include <memory>
#include <string>

#include <allfold/base/environment.hpp>
#include <allfold/store/tcp.hpp>

#include "host_subject.hpp"
#include "subject.hpp"

namespace bench {

/// Whether this program was built with UCX.
extern const bool built_with_ucx;

/// Collective. The ranks meet through `store`; `comm` compares their numbers and is not what is timed.
/// @throws std::runtime_error without UCX, allfold::Error if the ranks cannot meet
std::unique_ptr<Subject> make_ucx_subject(const allfold::Environment& environment, const Plan& plan, Comm& comm,
                                          allfold::TcpStore& store);

}  // namespace bench
