// expect: allfold: create takes an Environment, then Options and objects of the communicator's own policy types
// SPDX-License-Identifier: Apache-2.0
#include <allfold/allfold.hpp>

int main() {
#ifdef ALLFOLD_POSITIVE_CONTROL
  auto comm = allfold::Communicator<>::create(allfold::environment(), allfold::Options{.channels = 2});
#else
  auto comm = allfold::Communicator<>::create(allfold::environment(), 2);
#endif
}
