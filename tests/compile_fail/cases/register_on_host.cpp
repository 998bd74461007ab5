// expect: allfold: this transport cannot register memory of the caller's; use allocate
// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include <allfold/allfold.hpp>

int main() {
  auto comm = allfold::Communicator<allfold::ShmTransport>::create(allfold::environment());
#ifdef ALLFOLD_POSITIVE_CONTROL
  auto buffer = comm.allocate<float>(4);
  comm.all_reduce(buffer, allfold::sum);
#else
  std::vector<float> memory(4);
  comm.register_buffer(memory);
#endif
}
