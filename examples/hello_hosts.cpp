// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <vector>

#include <allfold/ucx.hpp>

using Comm = allfold::Communicator<allfold::TcpStore, allfold::UcxTransport>;

int main() {
  auto comm = Comm::create(allfold::environment());
  std::vector<float> x(1000, comm.rank() + 1.0F);
  comm.all_reduce(x, allfold::sum);
  if (comm.rank() == 0) std::printf("%d ranks: the sum is %g\n", comm.world_size(), x[0]);
}
