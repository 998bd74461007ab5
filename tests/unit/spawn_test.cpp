// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include <dirent.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <allfold/base/unique_fd.hpp>
#include <allfold/spawn.hpp>

using namespace std::chrono_literals;
using allfold::Environment;
using allfold::launch;
using allfold::launch_outcomes;
using allfold::LaunchOptions;
using allfold::Outcome;
using allfold::Ranks;

namespace {

constexpr Ranks both[] = {Ranks::processes, Ranks::threads};

const char* name(Ranks ranks) { return ranks == Ranks::processes ? "processes" : "threads"; }

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

void do_nothing(const Environment&) {}

void sleep_for(std::chrono::milliseconds duration) {
  const timespec time{duration.count() / 1000, duration.count() % 1000 * 1000000};
  ::nanosleep(&time, nullptr);
}

int open_descriptors() {
  int count = 0;
  DIR* const directory = ::opendir("/proc/self/fd");
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

/// Whether a connection to the meeting port is accepted by the kernel.
bool can_connect(const Environment& environment) {
  const allfold::UniqueFd socket(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(environment.meeting_port);
  return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

}  // namespace

TEST_CASE("every rank is told who it is") {
  for (const Ranks ranks : both) {
    CAPTURE(name(ranks));
    const auto check = [](const Environment& environment) {
      if (environment.world_size != 3 || environment.local_world_size != 3 ||
          environment.local_rank != environment.rank || environment.meeting_host != "127.0.0.1" ||
          environment.meeting_port == 0 || environment.meeting_directory != "/there") {
        throw std::runtime_error("wrong environment");
      }
    };
    const std::vector<Outcome> outcomes = launch_outcomes(3, check, {.ranks = ranks, .directory = "/there"});
    REQUIRE(outcomes.size() == 3);
    for (int rank = 0; rank < 3; ++rank) {
      const Outcome& outcome = outcomes[static_cast<std::size_t>(rank)];
      CHECK(outcome.rank == rank);
      CHECK(outcome.finished);
      CHECK(outcome.ok());
      CHECK(outcome.error == "");
    }
  }
}

TEST_CASE("threads share what the function captures, and each rank runs once") {
  std::atomic<int> runs{0};
  std::vector<int> seen(8, 0);
  launch(8,
         [&](const Environment& environment) {
           ++runs;
           seen[static_cast<std::size_t>(environment.rank)] += environment.rank + 1;
         },
         {.ranks = Ranks::threads});
  CHECK(runs == 8);
  CHECK(seen == std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8});
}

TEST_CASE("ranks run at the same time") {
  std::atomic<int> arrived{0};
  launch(4,
         [&](const Environment&) {
           ++arrived;
           while (arrived < 4) sleep_for(1ms);
         },
         {.ranks = Ranks::threads});
  CHECK(arrived == 4);
}

TEST_CASE("a function, and one that returns something, can be launched") {
  launch(2, do_nothing);
  launch(2, &do_nothing, {.ranks = Ranks::threads});
  launch(1, [](const Environment& environment) { return environment.rank; });
}

TEST_CASE("an exception fails its rank, and no other") {
  for (const Ranks ranks : both) {
    CAPTURE(name(ranks));
    const auto body = [](const Environment& environment) {
      if (environment.rank == 1) throw std::runtime_error("no luck");
      if (environment.rank == 2) throw 7;
    };
    const std::vector<Outcome> outcomes = launch_outcomes(4, body, {.ranks = ranks});
    CHECK(outcomes[0].ok());
    CHECK_FALSE(outcomes[1].ok());
    CHECK_FALSE(outcomes[1].finished);
    CHECK(outcomes[1].error == "no luck");
    CHECK(contains(outcomes[2].error, "no std::exception"));
    CHECK(outcomes[3].ok());
  }
}

TEST_CASE("launch throws the first failure in rank order") {
  for (const Ranks ranks : both) {
    CAPTURE(name(ranks));
    const auto body = [](const Environment& environment) {
      if (environment.rank >= 2) throw std::runtime_error("no luck " + std::to_string(environment.rank));
    };
    try {
      launch(4, body, {.ranks = ranks});
      FAIL("launch returned");
    } catch (const allfold::PeerError& error) {
      CHECK(std::string(error.what()) == "allfold: launch: rank 2 of 4 failed: no luck 2");
      CHECK(error.source_rank() == 2);
    }
  }
}

TEST_CASE("a long message is cut, not lost") {
  const auto body = [](const Environment&) { throw std::runtime_error(std::string(100000, 'x')); };
  const std::vector<Outcome> outcomes = launch_outcomes(2, body);
  CHECK(outcomes[1].error == std::string(4095, 'x'));
}

TEST_CASE("an exception without a message still fails") {
  for (const Ranks ranks : both) {
    const auto body = [](const Environment&) { throw std::runtime_error(""); };
    CHECK_FALSE(launch_outcomes(1, body, {.ranks = ranks})[0].error.empty());
  }
}

TEST_CASE("a killed rank is told with its signal") {
  const auto body = [](const Environment& environment) {
    if (environment.rank == 1) ::raise(SIGKILL);
  };
  const std::vector<Outcome> outcomes = launch_outcomes(3, body);
  CHECK(outcomes[0].ok());
  CHECK(outcomes[2].ok());
  CHECK(outcomes[1].signal == SIGKILL);
  CHECK_FALSE(outcomes[1].late);
  CHECK(outcomes[1].error == "it was killed by signal 9 (Killed)");
}

TEST_CASE("a rank that exits does not pass for one that finished") {
  const std::vector<Outcome> outcomes = launch_outcomes(2, [](const Environment& environment) {
    if (environment.rank == 0) ::_exit(0);
  });
  CHECK_FALSE(outcomes[0].ok());
  CHECK(outcomes[0].error == "its process exited with status 0 before its function returned");
  CHECK(outcomes[1].ok());
}

TEST_CASE("a late process is killed and named") {
  const auto body = [](const Environment& environment) {
    if (environment.rank == 1) sleep_for(300s);
  };
  const auto begin = std::chrono::steady_clock::now();
  const std::vector<Outcome> outcomes = launch_outcomes(2, body, {.timeout = 300ms});
  CHECK(std::chrono::steady_clock::now() - begin < 60s);
  CHECK(outcomes[0].ok());
  CHECK(outcomes[1].late);
  CHECK(outcomes[1].signal == SIGKILL);
  CHECK(outcomes[1].error == "it did not finish within 300 ms and was killed");
  try {
    launch(2, body, {.timeout = 300ms});
    FAIL("launch returned");
  } catch (const allfold::TimeoutError& error) {
    CHECK(error.source_rank() == 1);
    CHECK(contains(error.what(), "rank 1 of 2 failed: it did not finish"));
  }
}

TEST_CASE("a late thread is named and waited for") {
  std::atomic<bool> done{false};
  const auto body = [&](const Environment& environment) {
    if (environment.rank != 1) return;
    sleep_for(500ms);
    done = true;
  };
  const std::vector<Outcome> outcomes = launch_outcomes(2, body, {.ranks = Ranks::threads, .timeout = 50ms});
  CHECK(done);
  CHECK(outcomes[0].ok());
  CHECK(outcomes[1].late);
  CHECK(outcomes[1].finished);
  CHECK_FALSE(outcomes[1].ok());
  CHECK(outcomes[1].error == "it did not finish within 50 ms");
}

TEST_CASE("the other ranks are stopped if asked, and are not to blame") {
  const auto body = [](const Environment& environment) {
    if (environment.rank == 1) throw std::runtime_error("no luck");
    sleep_for(300s);
  };
  const auto begin = std::chrono::steady_clock::now();
  const LaunchOptions options{.timeout = 250s, .stop_others_on_failure = true};
  const std::vector<Outcome> outcomes = launch_outcomes(3, body, options);
  CHECK(std::chrono::steady_clock::now() - begin < 60s);
  CHECK(outcomes[0].stopped);
  CHECK_FALSE(outcomes[0].late);
  CHECK_FALSE(outcomes[0].ok());
  CHECK(outcomes[1].error == "no luck");
  CHECK_FALSE(outcomes[1].stopped);
  CHECK(outcomes[2].stopped);
  CHECK_THROWS_WITH_AS(launch(3, body, options), "allfold: launch: rank 1 of 3 failed: no luck", allfold::PeerError);
}

TEST_CASE("a rank that leaves a process behind does not hold up the launch") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  allfold::UniqueFd write_end(ends[1]);
  const auto begin = std::chrono::steady_clock::now();
  const LaunchOptions options{.timeout = 250s};
  launch(
      2,
      [&](const Environment&) {
        if (::fork() != 0) return;
        // Lives, with all that it inherited open, until the test closes its end of the pipe.
        write_end.reset();
        char byte;
        ::_exit(::read(ends[0], &byte, 1) == 0 ? 0 : 1);
      },
      options);
  CHECK(std::chrono::steady_clock::now() - begin < 60s);
  ::close(ends[0]);
}

TEST_CASE("buffered output is written once") {
  char path[] = "/tmp/allfold-spawn-XXXXXX";
  const allfold::UniqueFd file(::mkstemp(path));
  ::unlink(path);
  std::FILE* const stream = ::fdopen(::dup(file.get()), "w");
  std::fputs("p", stream);
  launch(2, [stream](const Environment&) { std::fputs("c", stream); });
  std::fclose(stream);
  char text[16] = {};
  CHECK(::pread(file.get(), text, sizeof text - 1, 0) == 3);
  CHECK(std::string(text) == "pcc");
}

TEST_CASE("rank 0 has the listening socket") {
  for (const Ranks ranks : both) {
    CAPTURE(name(ranks));
    launch(2,
           [ranks](const Environment& environment) {
             const bool serves = environment.rank == 0 || ranks == Ranks::threads;
             if (serves != (environment.listening_socket >= 0)) throw std::runtime_error("wrong listening socket");
             if (environment.rank != 0) return;
             if (!can_connect(environment)) throw std::runtime_error("nobody listens");
           },
           {.ranks = ranks});
  }
}

TEST_CASE("with rank 0 gone, a connection is refused") {
  launch(2, [](const Environment& environment) {
    if (environment.rank == 0) return;
    for (int tries = 0; can_connect(environment); ++tries) {
      if (tries == 1000) throw std::runtime_error("somebody listens on");
      sleep_for(10ms);
    }
  });
}

TEST_CASE("jobs differ, and so do their ports while both run") {
  launch(1,
         [](const Environment& outer) {
           launch(1,
                  [&outer](const Environment& inner) {
                    if (inner.job == outer.job) throw std::runtime_error("one job");
                    if (inner.meeting_port == outer.meeting_port) throw std::runtime_error("one port");
                  },
                  {.ranks = Ranks::threads});
         },
         {.ranks = Ranks::threads});
}

TEST_CASE("a process holds no descriptor of another, and a launch leaves none") {
  const int before = open_descriptors();
  // What is open in a child: the parent's, its own report and, at rank 0, the listening socket.
  const auto body = [before](const Environment& environment) {
    const int expected = before + (environment.rank == 0 ? 2 : 1);
    if (open_descriptors() != expected) {
      throw std::runtime_error(std::to_string(open_descriptors()) + " descriptors, not " + std::to_string(expected));
    }
  };
  launch(4, body);
  launch(4, do_nothing, {.ranks = Ranks::threads});
  CHECK(open_descriptors() == before);
}

TEST_CASE("ranks die with their launcher") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t launcher = ::fork();
  if (launcher == 0) {
    ::close(ends[0]);
    const auto body = [&ends](const Environment&) {
      const char ready = 'r';
      if (::write(ends[1], &ready, 1) == 1) sleep_for(300s);
    };
    (void)launch_outcomes(2, body, {.timeout = 250s});
    ::_exit(0);
  }
  ::close(ends[1]);
  char ready[2];
  for (int got = 0; got < 2; ++got) REQUIRE(::read(ends[0], ready, 1) == 1);
  ::kill(launcher, SIGKILL);
  ::waitpid(launcher, nullptr, 0);
  // The pipe ends only when both ranks are gone.
  const auto begin = std::chrono::steady_clock::now();
  CHECK(::read(ends[0], ready, 1) == 0);
  CHECK(std::chrono::steady_clock::now() - begin < 60s);
  ::close(ends[0]);
}

TEST_CASE("a wrong number of ranks") {
  CHECK_THROWS_WITH_AS(launch(0, do_nothing), "allfold: launch: the number of ranks is 0; expected at least 1",
                       allfold::UsageError);
  CHECK_THROWS_AS(launch(-1, do_nothing, {.ranks = Ranks::threads}), allfold::UsageError);
}
