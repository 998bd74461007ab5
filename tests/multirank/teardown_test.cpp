// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstddef>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <dirent.h>
#include <doctest/doctest.h>
#include <unistd.h>

#include <allfold/allfold.hpp>

#include <support/dev_shm.hpp>
#include <support/ranks.hpp>

using namespace std::chrono_literals;
using Comm = allfold::Communicator<>;
using Buffer = decltype(std::declval<Comm&>().allocate<float>(1));

namespace {

void sleep_ms(int ms) { ::usleep(static_cast<useconds_t>(ms) * 1000); }

int entries_of(const char* path) {
  int count = 0;
  DIR* const directory = ::opendir(path);
  if (directory == nullptr) return 0;
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

/// For ranks that create more than one communicator.
allfold::TcpStore store_of(const allfold::Environment& environment) {
  return allfold::TcpStore::connect(environment, allfold::Deadline::after(60s));
}

void use(Comm& comm, Buffer& buffer) {
  for (float& x : buffer) x = 1;
  comm.all_reduce(buffer.span(), allfold::sum);
  EXPECT(buffer[buffer.size() - 1] == static_cast<float>(comm.world_size()));
}

}  // namespace

TEST_CASE("a buffer may outlive its communicator") {
  allfold_test::over_ranks({1, 2, 3}, [](const allfold::Environment& environment) {
    std::optional<Comm> comm(Comm::create(environment));
    Buffer buffer = comm->allocate<float>(1000);
    use(*comm, buffer);
    comm.reset();
    for (float& x : buffer) x = 2;
    EXPECT(buffer[999] == 2);
  });
}

TEST_CASE("ranks may let go in any order") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    std::optional<Comm> comm(Comm::create(environment));
    std::optional<Buffer> first(comm->allocate<float>(1000));
    std::optional<Buffer> second(comm->allocate<float>(50));
    use(*comm, *first);
    use(*comm, *second);
    if (environment.rank == 0) {
      comm.reset();
      second.reset();
    } else {
      first.reset();
      sleep_ms(20 * environment.rank);
      comm.reset();
    }
  });
}

TEST_CASE("communicators of one process may end in any order") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    allfold::TcpStore store = store_of(environment);
    std::optional<Comm> a(Comm::create(environment, store));
    std::optional<Comm> b(Comm::create(environment, store));
    std::optional<Comm> c(Comm::create(environment, store));
    (environment.rank == 0 ? a : b).reset();
    c->barrier();
    (environment.rank == 0 ? b : a).reset();
    c->barrier();
  });
}

TEST_CASE("rank 0, who serves the store, may leave at once") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    comm.barrier();
    if (environment.rank != 0) sleep_ms(50);
  });
}

TEST_CASE("a call after a peer has left is an error that names it, not a hang") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    std::optional<Comm> comm(Comm::create(environment, allfold::Options{.timeout = 20s}));
    comm->barrier();
    if (environment.rank == 1) {
      comm.reset();
      return;
    }
    const auto begin = std::chrono::steady_clock::now();
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm->barrier(), allfold::PeerError), {"barrier", "rank 1"});
    EXPECT(std::chrono::steady_clock::now() - begin < 15s);
  });
}

TEST_CASE("a peer that has left its last call may go while others still end theirs") {
  allfold_test::over_ranks({2, 3, 4}, [](const allfold::Environment& environment) {
    allfold::TcpStore store = store_of(environment);
    for (int round = 0; round < 20; ++round) {
      Comm comm = Comm::create(environment, store);
      std::vector<float> x(5000, 1);
      comm.all_reduce(x, allfold::sum);
      for (const float value : x) EXPECT(value == static_cast<float>(environment.world_size));
    }
  });
}

TEST_CASE("a moved communicator works, and what it was moved from may be destroyed") {
  allfold_test::over_ranks({2}, [](const allfold::Environment& environment) {
    std::optional<Comm> first(Comm::create(environment));
    Buffer buffer = first->allocate<float>(10);
    Comm second(std::move(*first));
    first.reset();
    use(second, buffer);
    Buffer moved(std::move(buffer));
    use(second, moved);
  });
}

TEST_CASE("a process may exit without destroying anything") {
  const std::set<std::string> before = allfold_test::names_in_dev_shm();
  allfold_test::over_processes({1, 2, 3}, [](const allfold::Environment& environment) {
    auto* const comm = new Comm(Comm::create(environment));
    auto* const buffer = new Buffer(comm->allocate<float>(1000));
    use(*comm, *buffer);
  });
  CHECK(allfold_test::names_in_dev_shm() == before);
}

TEST_CASE("nothing is left: no file descriptor, no thread, no name in /dev/shm") {
  const std::set<std::string> before = allfold_test::names_in_dev_shm();
  allfold_test::over_processes({1, 2, 3}, [](const allfold::Environment& environment) {
    allfold::TcpStore store = store_of(environment);
    const auto round = [&] {
      Comm comm = Comm::create(environment, store, allfold::Options{.channels = 2, .blocks = 2, .lanes = 2});
      Buffer buffer = comm.allocate<float>(1000);
      use(comm, buffer);
    };
    round();
    const int descriptors = entries_of("/proc/self/fd");
    const int threads = entries_of("/proc/self/task");
    const int mappings = entries_of("/proc/self/map_files");
    for (int i = 0; i < 5; ++i) round();
    // Fewer, where another rank has left the store meanwhile.
    EXPECT(entries_of("/proc/self/fd") <= descriptors);
    EXPECT(entries_of("/proc/self/task") <= threads);
    EXPECT(entries_of("/proc/self/map_files") <= mappings + 4);  // the heap may have grown
  });
  CHECK(allfold_test::names_in_dev_shm() == before);
}

TEST_CASE("a store that is passed by value lives as long as the communicator") {
  allfold_test::over_ranks({1, 2}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment, store_of(environment));
    Buffer buffer = comm.allocate<float>(100);  // meets in the store again
    use(comm, buffer);
    comm.barrier();
  });
}

TEST_CASE("a failed communicator may be destroyed") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    Buffer buffer = comm.allocate<float>(100);
    EXPECT_THROWS_AS(comm.all_reduce(buffer.span().first(environment.rank == 0 ? 10 : 11), allfold::sum),
                     allfold::MismatchError);
  });
}
