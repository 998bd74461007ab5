// SPDX-License-Identifier: Apache-2.0

/// The same program, compiled by nvcc and linked to allfold::cuda; like it, it computes on CPU cores.

#include <allfold/allfold.cuh>

#include "../consumer/main.cpp"
