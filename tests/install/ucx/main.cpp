// SPDX-License-Identifier: Apache-2.0

/// A program of a user who has installed allfold and UCX: two local ranks add up their numbers by messages.

#include <cstdio>
#include <stdexcept>
#include <vector>

#include <allfold/ucx.hpp>

int main() {
  allfold::launch(2, [](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<allfold::UcxTransport>::create(environment);
    std::vector<int> numbers(3, comm.rank() + 1);
    comm.all_reduce(numbers, allfold::sum);
    if (numbers != std::vector<int>{3, 3, 3}) throw std::runtime_error("the sum of the ranks' numbers is wrong");
  });
  std::printf("allfold %d.%d.%d: the sum is right\n", allfold::version_major, allfold::version_minor,
              allfold::version_patch);
}
