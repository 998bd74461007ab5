// expect: allfold: sum needs .T operator\+\(T, T\)
// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include <allfold/allfold.hpp>

struct Point {
  int x;
};

int main() {
  auto comm = allfold::Communicator<>::create(allfold::environment());
  Point data[4] = {};
#ifdef ALLFOLD_POSITIVE_CONTROL
  comm.all_reduce(data, [](Point a, Point b) { return Point{a.x + b.x}; });
#else
  comm.all_reduce(data, allfold::sum);
#endif
}
