// expect: allfold: the output of a collective is const
// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include <allfold/ucx.hpp>

int main() {
  auto comm = allfold::Communicator<allfold::UcxTransport>::create(allfold::environment());
#ifdef ALLFOLD_POSITIVE_CONTROL
  std::vector<float> data(4);
#else
  const std::vector<float> data(4);
#endif
  comm.receive(data, 0);
}
