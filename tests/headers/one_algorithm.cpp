// SPDX-License-Identifier: Apache-2.0
// Compiled by one_algorithm.py, which counts the algorithms in the object file.
#include <allfold/allfold.hpp>

#ifdef ALLFOLD_TEST_ALGORITHM
using Selector = allfold::FixedSelector<allfold::Algorithm::ALLFOLD_TEST_ALGORITHM>;
#else
using Selector = allfold::TunedSelector;
#endif

int main() {
  auto comm = allfold::Communicator<Selector>::create(allfold::environment());
  float data[4] = {1, 2, 3, 4};
  comm.all_reduce(data, allfold::sum);
}
