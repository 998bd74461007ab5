// SPDX-License-Identifier: Apache-2.0
#pragma once

/// allfold over UCX: UcxTransport, UcxThreadTransport and the communicator that they make. A program that includes it
/// links allfold::ucx.

#include <allfold/messages.hpp>
#include <allfold/transport/ucx.hpp>
