// SPDX-License-Identifier: Apache-2.0
// What a communicator says when ranks are lost, and that its processes go on.
#include <chrono>
#include <csignal>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <unistd.h>

#include <allfold/ucx.hpp>

#include <support/over_ucx.hpp>
#include <support/ranks.hpp>

using namespace std::chrono_literals;
using allfold::Work;

namespace {

constexpr allfold::CallOptions async{.async = true};

/// Runs `body(communicator)` on three ranks with both kinds of progress; the last rank need not end well.
template <class Body>
void with_a_bad_rank(Body&& body) {
  const auto run = [&](const char* ways, auto&& rank) {
    allfold_test::take_ways(ways);
    for (const allfold::Outcome& outcome : allfold::launch_outcomes(3, rank, {.timeout = 20s})) {
      if (outcome.rank != 2) CHECK_MESSAGE(outcome.ok(), "\"", std::string(ways), "\": ", outcome.error);
    }
  };
  const allfold::Options options{.timeout = 3s};
  for (const char* ways : {"tcp", ""}) {
    run(ways, [&](const allfold::Environment& environment) {
      auto comm = allfold::Communicator<allfold::UcxTransport>::create(environment, options);
      body(comm);
    });
    run(ways, [&](const allfold::Environment& environment) {
      auto comm = allfold::Communicator<allfold::UcxThreadTransport>::create(environment, options);
      body(comm);
    });
  }
}

/// Stops this process, which a child ends after a while.
void stop_for_good(std::chrono::seconds after) {
  const pid_t self = ::getpid();
  if (::fork() == 0) {
    ::sleep(static_cast<unsigned>(after.count()));
    ::kill(self, SIGKILL);
    ::_exit(0);
  }
  ::raise(SIGSTOP);
}

/// Every Work that is under way ends with `Error`, which names rank 2, by `end`.
template <class Error>
void expect_all_end(const std::vector<Work>& works, allfold::Deadline end) {
  for (const Work& work : works) {
    try {
      work.wait();
      allfold_test::throw_failure("a call without rank 2 went well", __FILE__, __LINE__);
    } catch (const Error& error) {
      EXPECT(error.source_rank() == 2);
    }
  }
  EXPECT(!end.expired());
}

}  // namespace

TEST_CASE("a rank that is killed ends every operation of the others, and later ones") {
  with_a_bad_rank([](auto& comm) {
    std::vector<int> word(1);
    if (comm.rank() == 2) {  // dies when the others have begun
      for (const int peer : {0, 1}) comm.receive(word, peer, {.tag = 1});
      ::kill(::getpid(), SIGKILL);
    }
    std::vector<std::vector<int>> data(9, std::vector<int>(300000, 1));
    std::vector<Work> works;
    for (std::size_t i = 0; i < 6; ++i) works.push_back(comm.all_reduce(data[i], allfold::sum, async));
    works.push_back(comm.receive(data[6], 2, async));
    works.push_back(comm.receive(data[7], 1 - comm.rank(), {.tag = 9, .async = true}));
    works.push_back(comm.receive(data[8], allfold::any_source, {.tag = 10, .async = true}));
    comm.send(word, 2, {.tag = 1});
    expect_all_end<allfold::PeerError>(works, allfold::Deadline::after(4s));
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.barrier(), allfold::PeerError), {"ended earlier", "rank 2"});
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.send(data[0], 0), allfold::PeerError), {"ended earlier"});
  });
}

TEST_CASE("a rank that stops is named when the time is over") {
  with_a_bad_rank([](auto& comm) {
    constexpr allfold::CallOptions brief{.timeout = 500ms, .async = true};
    comm.barrier();
    if (comm.rank() == 2) stop_for_good(2s);
    std::vector<int> small(2), part(1000000), large(3000000);
    const std::vector<Work> works = {comm.all_reduce(small, allfold::sum, brief), comm.all_gather(part, large, brief)};
    expect_all_end<allfold::TimeoutError>(works, allfold::Deadline::after(4s));
  });
}

TEST_CASE("a rank that leaves is named") {
  with_a_bad_rank([](auto& comm) {
    if (comm.rank() == 2) return;
    std::vector<int> data(100);
    const std::string message = EXPECT_THROWS_AS(comm.all_reduce(data, allfold::sum), allfold::PeerError);
    allfold_test::expect_contains(message, {"rank 2 has left"});
  });
}

TEST_CASE("after a failure the same processes form a new communicator, a late one too") {
  allfold_test::over_ucx({3}, [](auto& comm, const allfold::Environment& environment) {
    using Comm = std::remove_reference_t<decltype(comm)>;
    std::vector<int> word(1);
    for (int late = 0; late < 3; ++late) {
      Comm mortal = Comm::create(environment, allfold::Options{.timeout = 300ms});
      if (comm.rank() == late) {  // comes when the others have given up
        for (int i = 0; i < 2; ++i) comm.receive(word, allfold::any_source);
      }
      std::vector<int> data(1000, 1);
      const auto all_reduce = [&] { mortal.all_reduce(data, allfold::sum); };
      if (comm.rank() != late) {
        EXPECT_THROWS_AS(all_reduce(), allfold::TimeoutError);
        comm.send(word, late);
      } else {  // it may find the others gone, with what they said last; see decision 11
        try {
          all_reduce();
          allfold_test::throw_failure("a call that the others had given up went well", __FILE__, __LINE__);
        } catch (const allfold::TimeoutError&) {
        } catch (const allfold::PeerError&) {
        }
      }
    }
    std::vector<int> data(1000, 1);
    comm.all_reduce(data, allfold::sum);
    EXPECT(data[999] == 3);
  });
}
