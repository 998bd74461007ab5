// SPDX-License-Identifier: Apache-2.0
// Compiled by tracer_cost.py, which looks for what tracing leaves in the object file.
#include <allfold/allfold.hpp>

int main() {
  auto comm = allfold::Communicator<allfold::ALLFOLD_TEST_TRACER>::create(allfold::environment());
  float data[4] = {1, 2, 3, 4};
  comm.all_reduce(data, allfold::sum);
  comm.barrier();
}
