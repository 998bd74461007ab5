// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <stdexcept>

#include <allfold/allfold.hpp>
#include <allfold/spawn.hpp>

int main() {
  allfold::launch(2, [](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<>::create(environment);
    auto x = comm.allocate<int>(1);
    x[0] = comm.rank() + 1;
    comm.all_reduce(x.span(), allfold::sum);
    if (x[0] != 3) throw std::runtime_error("1 + 2 is not 3");
  });
  std::puts("allfold: 1 + 2 = 3");
}
