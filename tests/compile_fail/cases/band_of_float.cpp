// expect: allfold: band, bor and bxor
// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include <allfold/allfold.hpp>

int main() {
  auto comm = allfold::Communicator<>::create(allfold::environment());
  float data[4] = {};
#ifdef ALLFOLD_POSITIVE_CONTROL
  comm.all_reduce(data, allfold::sum);
#else
  comm.all_reduce(data, allfold::band);
#endif
}
