// SPDX-License-Identifier: Apache-2.0
// What the links between ranks, their hosts and the machine's memory mean to a communicator.
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/resource.h>

#include <allfold/allfold.hpp>
#include <allfold/topology/parse.hpp>
#include <support/ranks.hpp>

using allfold::Algorithm;
using allfold::FixedTopology;
using allfold::TopologyKind;
using Comm = allfold::Communicator<allfold::ThresholdSelector>;

namespace {

FixedTopology machine(const std::string& name, int gpus) {
  std::string path = __FILE__;
  path.resize(path.rfind("multirank"));
  path += "fixtures/topology/" + name + ".txt";
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return FixedTopology(allfold::parse_link_matrix(text.str(), name, gpus));
}

void expect_sum(Comm& comm, std::size_t count, std::optional<Algorithm> algorithm = {}) {
  std::vector<float> data(count);
  for (std::size_t i = 0; i < count; ++i) data[i] = static_cast<float>((i % 7) * static_cast<std::size_t>(comm.rank()));
  comm.all_reduce(data, allfold::sum, {.algorithm = algorithm});
  const int ranks = comm.world_size() * (comm.world_size() - 1) / 2;
  for (std::size_t i = 0; i < count; ++i) EXPECT(data[i] == static_cast<float>(i % 7) * static_cast<float>(ranks));
}

}  // namespace

TEST_CASE("a DGX-1 is a hybrid cube mesh, and small vectors take its links") {
  allfold_test::over_ranks({8}, [](const allfold::Environment& environment) {
    auto comm = Comm::create(environment, machine("dgx1_v100", 8));
    EXPECT(comm.topology() == TopologyKind::hybrid_cube_mesh);
    EXPECT(comm.would_choose<float>(1000) == Algorithm::hybrid_cube_mesh);
    EXPECT(comm.would_choose<float>(100000) == Algorithm::none);
    for (const std::size_t count : {0, 1, 1000, 100000}) expect_sum(comm, count);
    expect_sum(comm, 300000, Algorithm::hybrid_cube_mesh);  // in rounds
    EXPECT_THROWS_AS(expect_sum(comm, 4, Algorithm::one_shot), allfold::UsageError);
  });
}

TEST_CASE("a machine with a link missing has no fast path, unless a user insists") {
  allfold_test::over_processes({4}, [](const allfold::Environment& environment) {
    auto plain = Comm::create(environment, machine("nvlink_bridges_4", 4));
    EXPECT(plain.topology() == TopologyKind::unknown);
    EXPECT(plain.would_choose<float>(1000) == Algorithm::none);
    expect_sum(plain, 1000);
    // Rank 0's word counts: an override that only some ranks have must not split them.
    if (environment.rank == 0) ::setenv("ALLFOLD_FORCE_FULLY_CONNECTED", "1", 1);
    auto forced = Comm::create(environment, machine("nvlink_bridges_4", 4));
    EXPECT(forced.topology() == TopologyKind::fully_connected);
    EXPECT(forced.would_choose<float>(1000) == Algorithm::one_shot);
    expect_sum(forced, 1000);
  });
}

TEST_CASE("the fast path can be switched off") {
  allfold_test::over_processes({2}, [](const allfold::Environment& environment) {
    ::setenv("ALLFOLD_DISABLE_FAST_PATH", "1", 1);
    auto comm = Comm::create(environment);
    EXPECT(comm.would_choose<float>(1000) == Algorithm::none);
    expect_sum(comm, 1000);
    expect_sum(comm, 1000, Algorithm::one_shot);  // asked for by name
  });
}

TEST_CASE("an unknown value of an override is an error on every rank") {
  allfold_test::over_processes({2}, [](const allfold::Environment& environment) {
    ::setenv("ALLFOLD_DISABLE_FAST_PATH", "perhaps", 1);
    const auto attempt = Comm::try_create(environment);
    EXPECT(!attempt);
    allfold_test::expect_contains(attempt.reason(), {"ALLFOLD_DISABLE_FAST_PATH", "perhaps"});
  });
}

TEST_CASE("ranks of different hosts are refused, with both hosts' names") {
  allfold_test::over_processes({2, 3}, [](const allfold::Environment& environment) {
    if (environment.rank == 1) ::setenv("ALLFOLD_HOST_ID", "another host", 1);
    const auto attempt = Comm::try_create(environment);
    EXPECT(!attempt);
    allfold_test::expect_contains(attempt.reason(), {"different hosts", "rank 0", "rank 1", "share memory"});
  });
}

TEST_CASE("no room for shared memory is an error on every rank, and a smaller communicator works") {
  allfold_test::over_processes({2}, [](const allfold::Environment& environment) {
    ::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{};
    ::getrlimit(RLIMIT_FSIZE, &limit);
    if (environment.rank == 1) {
      limit.rlim_cur = rlim_t{16} << 20;
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    auto comm = Comm::create(environment);
    const std::string reason = EXPECT_THROWS_AS(comm.allocate<float>(std::size_t{8} << 20), allfold::Error);
    allfold_test::expect_contains(reason, {"rank 1", "33554432 bytes"});
    expect_sum(comm, 1000);  // a refused allocation ends nothing
    auto small = comm.allocate<float>(1000);
    EXPECT(small.size() == 1000);
  });
}
