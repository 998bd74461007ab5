// SPDX-License-Identifier: Apache-2.0
#pragma once

#if !defined(__CUDACC__)
#error "allfold: allfold.cuh is for programs compiled by nvcc; include <allfold/allfold.hpp> in the others"
#endif

/// allfold in a program compiled by nvcc. In this version it holds what allfold.hpp does.

#include <allfold/allfold.hpp>
