// SPDX-License-Identifier: Apache-2.0

/// Leaving the machine: every process is one rank, on whatever host, and UCX carries what they send each other. Link
/// allfold::ucx. Start one process for each rank; they meet at rank 0's host. On two hosts, a and b:
///
///   by hand, on a:   RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 MASTER_ADDR=a MASTER_PORT=29500 multi_node
///            on b:   RANK=1 WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 MASTER_ADDR=a MASTER_PORT=29500 multi_node
///   Open MPI:        mpirun -np 2 --host a,b -x ALLFOLD_MEETING=a:29500 multi_node
///   SLURM:           srun -N 2 -n 2 multi_node
///
/// UCX takes the fastest network that it finds; UCX_NET_DEVICES=eth0 names one, UCX_TLS=tcp the kind.

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <numeric>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

#include <allfold/ucx.hpp>

namespace {

using namespace std::chrono_literals;

void expect(bool holds) {
  if (!holds) throw std::runtime_error("multi_node: a result is wrong");
}

/// Calls that return when they are over: progress is the caller's, which is the shortest way.
void collectives(const allfold::Environment& environment) {
  using Comm = allfold::Communicator<allfold::TcpStore, allfold::UcxTransport>;
  auto comm = Comm::create(environment);
  const int ranks = comm.world_size();

  std::vector<float> x(1000, static_cast<float>(comm.rank() + 1));
  comm.all_reduce(x, allfold::sum);
  expect(x[999] == static_cast<float>(ranks * (ranks + 1) / 2));

  const std::vector<int> mine = {comm.rank()};
  std::vector<int> all(static_cast<std::size_t>(ranks));
  comm.all_gather(mine, all);
  expect(all.back() == ranks - 1);

  comm.broadcast(all, {.root = ranks - 1});

  // A message around the ring: the receive is begun first, so that nobody waits for a rank that waits.
  std::vector<int> got(1);
  const allfold::Work receive = comm.receive(got, allfold::any_source, {.tag = 7, .async = true});
  comm.send(mine, (comm.rank() + 1) % ranks, {.tag = 7});
  expect(receive.source_rank() == (comm.rank() + ranks - 1) % ranks && got[0] == receive.source_rank());

  if (comm.rank() == 0) std::printf("%d ranks: the sum is %g, and a message came from rank %d\n", ranks, x[0], got[0]);
}

/// What an optimizer would wait for: the derivatives of one layer.
void compute(std::span<float> layer, int rank) { std::iota(layer.begin(), layer.end(), static_cast<float>(rank)); }

/// Calls that return at once, on a communicator with a thread that makes progress: layers travel while the next one is
/// computed.
void overlap(const allfold::Environment& environment) {
  using Comm = allfold::Communicator<allfold::TcpStore, allfold::UcxThreadTransport>;
  auto comm = Comm::create(environment);
  constexpr std::size_t layers = 8;
  constexpr std::size_t count = 100000;
  std::vector<float> gradient(layers * count);
  std::vector<allfold::Work> works;
  for (std::size_t i = 0; i < layers; ++i) {
    const auto layer = std::span(gradient).subspan(i * count, count);
    compute(layer, comm.rank());
    works.push_back(comm.all_reduce(layer, allfold::sum, {.async = true}));
  }
  for (const allfold::Work& work : works) work.wait();
  const int ranks = comm.world_size();
  expect(gradient.back() ==
         static_cast<float>((count - 1)) * static_cast<float>(ranks) + static_cast<float>(ranks * (ranks - 1) / 2));
  if (comm.rank() == 0) std::printf("%zu layers were summed while others were computed\n", layers);
}

/// A rank that does not come is named by all others, and nobody hangs.
void late_rank(const allfold::Environment& environment) {
  auto comm = allfold::Communicator<allfold::UcxTransport>::create(environment);
  const int last = comm.world_size() - 1;
  if (last == 0) return;
  if (comm.rank() == last) {
    std::this_thread::sleep_for(1500ms);
    return;
  }
  try {
    comm.barrier({.timeout = 300ms});
    expect(false);
  } catch (const allfold::TimeoutError& error) {
    expect(error.source_rank() == last);
    if (comm.rank() == 0) std::printf("%s\n", error.what());
  }
}

}  // namespace

int main() {
  try {
    const allfold::Environment environment = allfold::environment();
    collectives(environment);
    overlap(environment);
    late_rank(environment);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
