// SPDX-License-Identifier: Apache-2.0
// Far more ranks than cores: more than one group that meets, and more than all greet.
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/resource.h>

#include <allfold/ucx.hpp>

#include <support/over_ucx.hpp>
#include <support/rank_values.hpp>
#include <support/ranks.hpp>

using namespace std::chrono_literals;
using allfold_test::folded_values;
using allfold_test::same_values;
using allfold_test::values_of;

namespace {

template <class Transport>
void every_small_call(const allfold::Environment& environment) {
  auto comm = allfold::Communicator<Transport>::create(environment, allfold::Options{.timeout = 60s});
  const auto ranks = static_cast<std::size_t>(comm.world_size());
  const auto me = static_cast<std::size_t>(comm.rank());
  comm.barrier();

  for (const std::size_t count : {1, 3000}) {
    std::vector<float> sums = values_of<float>(comm.rank(), count);
    comm.all_reduce(sums, allfold::sum);
    const std::vector<float> want = folded_values<float>(allfold::sum, comm.world_size(), count);
    EXPECT(same_values(std::span<const float>(sums), std::span<const float>(want)));
  }
  std::vector<std::int32_t> fast(5, comm.rank());
  comm.all_reduce(fast, allfold::max, {.fast = true});
  EXPECT(fast == std::vector<std::int32_t>(5, comm.world_size() - 1));

  for (const std::size_t each : {1, 700}) {
    std::vector<std::int32_t> to_all(each * ranks), from_all(each * ranks, -1);
    for (std::size_t i = 0; i < to_all.size(); ++i) to_all[i] = static_cast<std::int32_t>(me * to_all.size() + i);
    comm.all_to_all(to_all, from_all);
    for (std::size_t i = 0; i < from_all.size(); ++i) {
      const std::size_t source = i / each;
      EXPECT(from_all[i] == static_cast<std::int32_t>(source * to_all.size() + me * each + i % each));
    }
  }

  std::vector<std::size_t> counts(ranks);
  for (std::size_t r = 0; r < ranks; ++r) counts[r] = r % 5;
  const std::vector<std::int32_t> mine(counts[me], comm.rank());
  const std::size_t total = std::accumulate(counts.begin(), counts.end(), std::size_t{0});
  const int root = comm.world_size() - 1;
  std::vector<std::int32_t> all(comm.rank() == root ? total : 0);
  comm.gather_v(mine, all, comm.rank() == root ? counts : std::vector<std::size_t>(), {.root = root});
  for (std::size_t r = 0, at = 0; comm.rank() == root && r < ranks; at += counts[r++]) {
    for (std::size_t i = 0; i < counts[r]; ++i) EXPECT(all[at + i] == static_cast<std::int32_t>(r));
  }
  comm.barrier();
}

}  // namespace

TEST_CASE("dozens of ranks, each caller making progress") {
  allfold_test::take_ways("tcp");
  allfold_test::over_processes(
      {33, 66}, [](const allfold::Environment& environment) { every_small_call<allfold::UcxTransport>(environment); });
}

TEST_CASE("dozens of ranks, each with a thread that makes progress") {
  allfold_test::take_ways("");
  allfold_test::over_processes({16}, [](const allfold::Environment& environment) {
    every_small_call<allfold::UcxThreadTransport>(environment);
  });
}

TEST_CASE("a limit of files that is too low for all connections is an error that says what it should be") {
  allfold_test::take_ways("tcp");
  allfold_test::over_processes({24}, [](const allfold::Environment& environment) {
    rlimit limit{};
    EXPECT(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = 90;
    EXPECT(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
    const std::string message =
        EXPECT_THROWS_AS(allfold::Communicator<allfold::UcxTransport>::create(environment), allfold::Error);
    allfold_test::expect_contains(message, {"UCX's connections to 23 ranks take 69 files; expected a limit of ",
                                            " open files at least, got 90; raise it, with ulimit -n"});
  });
}
