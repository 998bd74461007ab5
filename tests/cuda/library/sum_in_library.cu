// SPDX-License-Identifier: Apache-2.0
// A shared library with an all-reduce of ELEMENT in it. It has a CUDA runtime of its own, as CMake links it unless told
// otherwise.
#include "sum_in_library.hpp"

#include <stdexcept>

#include <cuda_runtime.h>

#include <allfold/allfold.cuh>

namespace {

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

}  // namespace

template <class T>
double allfold_test::sum_in_library(const allfold::Environment& environment, const allfold::Options& options) {
  using Comm =
      allfold::Communicator<allfold::NvlinkTransport, allfold::FixedSelector<allfold::Algorithm::one_shot_packet>>;
  Comm comm = Comm::create(environment, options);
  auto x = comm.allocate<T>(1);
  auto value = static_cast<T>(environment.rank + 1);
  check(cudaMemcpy(x.data(), &value, sizeof value, cudaMemcpyDefault));
  comm.all_reduce(x, allfold::sum);
  check(cudaMemcpy(&value, x.data(), sizeof value, cudaMemcpyDefault));
  comm.status();
  return static_cast<double>(value);
}

template double allfold_test::sum_in_library<ELEMENT>(const allfold::Environment&, const allfold::Options&);
