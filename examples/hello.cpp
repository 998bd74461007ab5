// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <stdexcept>
#include <vector>

#include <allfold/allfold.hpp>
#include <allfold/spawn.hpp>

int main() {
  allfold::launch(4, [](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<>::create(environment);
    std::vector<float> x(1000, comm.rank() + 1.0F);
    comm.all_reduce(x, allfold::sum);
    if (comm.rank() == 0) std::printf("1 + 2 + 3 + 4 = %g\n", x[0]);
    if (x[0] != 10.0F || x[999] != 10.0F) throw std::runtime_error("the sum is wrong");
  });
}
