// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <allfold/allfold.hpp>

#include <support/random.hpp>
#include <support/ranks.hpp>

using namespace std::chrono_literals;
using Comm = allfold::Communicator<>;

namespace {

/// Memory that all ranks share, be they processes or threads, and that no collective knows. Its words are read and
/// written plainly: a barrier that does not order them is a data race.
class SharedSteps {
 public:
  SharedSteps()
      : steps_(static_cast<int*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {
    REQUIRE(static_cast<void*>(steps_) != MAP_FAILED);
  }
  ~SharedSteps() { ::munmap(steps_, bytes); }
  SharedSteps(const SharedSteps&) = delete;
  SharedSteps& operator=(const SharedSteps&) = delete;

  /// On a line of its own.
  int& of(int rank) const { return steps_[rank * 16]; }

 private:
  static constexpr std::size_t bytes = 4096;
  int* steps_;
};

std::vector<int> random_group(allfold_test::Random& random, int world_size) {
  std::vector<int> group;
  while (group.empty()) {
    for (int rank = 0; rank < world_size; ++rank) {
      if (random.chance(50)) group.push_back(rank);
    }
  }
  return group;
}

bool contains(const std::vector<int>& group, int rank) {
  for (const int member : group) {
    if (member == rank) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("nobody leaves a barrier before all have come") {
  SharedSteps steps;
  allfold_test::over_ranks(allfold_test::every_world_size, [&](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    for (int step = 1; step <= 200; ++step) {
      steps.of(comm.rank()) = step;
      comm.barrier();
      for (int rank = 0; rank < comm.world_size(); ++rank) EXPECT(steps.of(rank) == step);
      comm.barrier();
    }
  });
}

TEST_CASE("an all-reduce is a meeting of all ranks too, of no elements even") {
  SharedSteps steps;
  allfold_test::over_ranks({2, 3, 4}, [&](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    std::vector<int> data;
    for (int step = 1; step <= 100; ++step) {
      steps.of(comm.rank()) = step;
      data.resize(static_cast<std::size_t>(step % 3));
      comm.all_reduce(data, allfold::sum);
      for (int rank = 0; rank < comm.world_size(); ++rank) EXPECT(steps.of(rank) == step);
      comm.barrier();
    }
  });
}

TEST_CASE("barriers of groups, random ones, between barriers of all and all-reduces") {
  SharedSteps steps;
  const std::uint64_t seed = allfold_test::test_seed();
  allfold_test::over_ranks({2, 3, 4, 8}, [&](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    allfold_test::Random random(seed);
    const int me = comm.rank();
    steps.of(me) = 0;
    comm.barrier();
    for (int step = 1; step <= 200; ++step) {
      const std::vector<int> group = random_group(random, comm.world_size());
      if (contains(group, me)) {
        // Only what a member wrote before this step's barrier is ordered: read no other rank's word.
        steps.of(me) = step;
        comm.barrier(group);
        for (const int rank : group) EXPECT(steps.of(rank) == step);
        comm.barrier(group);
      }
      if (random.chance(20)) comm.barrier();
      if (random.chance(20)) {
        std::vector<int> one{1};
        comm.all_reduce(one, allfold::sum);
        EXPECT(one[0] == comm.world_size());
      }
    }
  });
}

TEST_CASE("disjoint groups do not wait for one another") {
  allfold_test::over_ranks({4}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    const std::vector<int> low{0, 1};
    const std::vector<int> high{2, 3};
    const bool is_low = comm.rank() < 2;
    for (int step = 0; step < (is_low ? 50 : 5); ++step) comm.barrier(is_low ? low : high);
    comm.barrier();
  });
}

TEST_CASE("a group of one, and of all in any order") {
  allfold_test::over_ranks({1, 3}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    comm.barrier(std::vector<int>{comm.rank()});
    std::vector<int> all;
    for (int rank = comm.world_size(); rank-- > 0;) all.push_back(rank);
    comm.barrier(all);
    comm.barrier();
  });
}

TEST_CASE("a wrong group is refused, and the communicator lives on") {
  allfold_test::over_ranks({2}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    const int other = 1 - comm.rank();
    EXPECT_THROWS_AS(comm.barrier(std::vector<int>{other}), allfold::UsageError);
    EXPECT_THROWS_AS(comm.barrier(std::vector<int>{}), allfold::UsageError);
    EXPECT_THROWS_AS(comm.barrier(std::vector<int>{0, 1, 2}), allfold::UsageError);
    EXPECT_THROWS_AS(comm.barrier(std::vector<int>{0, 1, -1}), allfold::UsageError);
    comm.barrier();
  });
}

TEST_CASE("a barrier that a rank does not reach ends at its deadline and names the rank") {
  allfold_test::over_ranks({3}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment, allfold::Options{.timeout = 200ms});
    if (comm.rank() == 1) {
      // Alive, and late.
      const timespec nap{3, 0};
      ::nanosleep(&nap, nullptr);
      return;
    }
    const auto begin = std::chrono::steady_clock::now();
    const std::string message = EXPECT_THROWS_AS(comm.barrier(), allfold::TimeoutError);
    EXPECT(std::chrono::steady_clock::now() - begin < 20s);
    allfold_test::expect_contains(message, {"barrier", "rank 1"});
    // Poisoned: every later call says why.
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.barrier(), allfold::Error), {"rank 1"});
  });
}
