// expect: allfold: the output of a collective is const
// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include <allfold/allfold.hpp>

int main() {
  auto comm = allfold::Communicator<>::create(allfold::environment());
  const std::vector<float> in(4);
#ifdef ALLFOLD_POSITIVE_CONTROL
  std::vector<float> out(4);
#else
  const std::vector<float> out(4);
#endif
  comm.all_reduce(in, out, allfold::sum);
}
