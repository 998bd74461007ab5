// SPDX-License-Identifier: Apache-2.0

/// What nvcc says of the templates once they are used: every algorithm is instantiated here, for CPU ranks.

#include <allfold/allfold.cuh>

void one_all_reduce() {
  auto comm = allfold::Communicator<>::create(allfold::environment());
  auto x = comm.allocate<float>(1024);
  comm.all_reduce(x.span(), allfold::sum);
  comm.barrier();
}
