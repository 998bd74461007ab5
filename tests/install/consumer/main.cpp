// SPDX-License-Identifier: Apache-2.0

/// A program of a user who has installed allfold: two local ranks add up their numbers.

#include <cstdio>
#include <stdexcept>

#include <allfold/allfold.hpp>
#include <allfold/spawn.hpp>
#include <allfold/version.hpp>

int main() {
  allfold::launch(2, [](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<>::create(environment);
    auto x = comm.allocate<float>(4);
    for (float& element : x) element = static_cast<float>(comm.rank() + 1);
    comm.all_reduce(x.span(), allfold::sum);
    for (const float element : x) {
      if (element != 3.0f) throw std::runtime_error("the sum of the ranks' numbers is wrong");
    }
  });
  std::printf("allfold %d.%d.%d: the sum is right\n", allfold::version_major, allfold::version_minor,
              allfold::version_patch);
}
