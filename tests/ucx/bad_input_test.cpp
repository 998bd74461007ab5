// SPDX-License-Identifier: Apache-2.0
// One clear sentence for each mistake.
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/ucx.hpp>

#include <support/over_ucx.hpp>
#include <support/ranks.hpp>

using namespace std::chrono_literals;
using allfold::MismatchError;
using allfold::UsageError;
using allfold_test::expect_contains;
using allfold_test::over_ucx;

namespace {

using Counts = std::vector<std::size_t>;

/// Runs `call(comm)`, which differs between ranks: all of them must throw MismatchError.
template <class Call>
void all_differ(bool checked, Call&& call) {
  allfold_test::take_ways("tcp");
  allfold_test::over_processes({2}, [&](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<allfold::UcxTransport>::create(environment, allfold::Options{.timeout = 5s},
                                                                     allfold::MessageOptions{.check_calls = checked});
    const auto begin = allfold::Clock::now();
    const std::string message = EXPECT_THROWS_AS(call(comm), MismatchError);
    EXPECT(allfold::Clock::now() - begin < 4s);
    if (checked) expect_contains(message, {"ranks disagree", "this rank calls", "but rank"});
    expect_contains(EXPECT_THROWS_AS(comm.barrier(), MismatchError), {"ended earlier"});
  });
}

}  // namespace

TEST_CASE("counts, splits, roots, peers and tags are checked before anything is sent") {
  over_ucx({2}, [](auto& comm) {
    std::vector<int> two(2), three(3), four(4), none;
    const Counts ones{1, 1}, long_list{1, 1, 1};
    const auto refused = [](const std::string& message, std::initializer_list<const char*> parts) {
      expect_contains(message, {"allfold: rank ", "; "});
      expect_contains(message, parts);
    };
    refused(EXPECT_THROWS_AS(comm.all_reduce(two, three, allfold::sum), UsageError),
            {"all_reduce: the output has 3 elements; expected 2, as many as the input"});
    refused(EXPECT_THROWS_AS(comm.all_gather(two, three), UsageError), {"output has 3", "expected 4"});
    refused(EXPECT_THROWS_AS(comm.all_gather_v(two, three, ones), UsageError), {"add up to 2", "has 3"});
    refused(EXPECT_THROWS_AS(comm.all_gather_v(two, three, long_list), UsageError), {"3 counts", "expected 2"});
    refused(EXPECT_THROWS_AS(comm.all_gather_v(two, two, ones), UsageError), {"input has 2", "this rank's count"});
    refused(EXPECT_THROWS_AS(comm.reduce_scatter(three, two, allfold::sum), UsageError), {"input has 3"});
    refused(EXPECT_THROWS_AS(comm.reduce_scatter_v(two, two, allfold::sum, ones), UsageError), {"output has 2"});
    refused(EXPECT_THROWS_AS(comm.all_to_all(three, std::vector<int>(3)), UsageError), {"multiple of the world size"});
    refused(EXPECT_THROWS_AS(comm.all_to_all_v(two, ones, three, ones), UsageError), {"output add up to 2"});
    refused(EXPECT_THROWS_AS(comm.all_to_all_v(two, Counts{2, 0}, three, Counts{1, 2}), UsageError),
            {"elements; expected"});
    const Counts too_many{static_cast<std::size_t>(-1), 2};
    refused(EXPECT_THROWS_AS(comm.all_to_all_v(two, too_many, three, ones), UsageError), {"more than memory"});
    refused(EXPECT_THROWS_AS(comm.broadcast(two, {.root = 2}), UsageError), {"root is 2", "0 to 1"});
    refused(EXPECT_THROWS_AS(comm.reduce(two, two, allfold::sum, {.root = -1}), UsageError), {"root is -1"});
    refused(EXPECT_THROWS_AS(comm.gather(two, two, {.root = comm.rank()}), UsageError), {"output has 2", "expected 4"});
    refused(EXPECT_THROWS_AS(comm.scatter(two, two, {.root = comm.rank()}), UsageError), {"input has 2", "expected 4"});
    refused(EXPECT_THROWS_AS(comm.send(two, 2), UsageError), {"rank to send to is 2"});
    refused(EXPECT_THROWS_AS(comm.receive(two, -2), UsageError), {"rank to receive from is -2"});
    refused(EXPECT_THROWS_AS(comm.send(two, 1 - comm.rank(), {.tag = -1}), UsageError), {"tag is -1"});
    refused(EXPECT_THROWS_AS(comm.send(two, comm.rank()), UsageError), {"to this rank itself"});
    refused(EXPECT_THROWS_AS(comm.barrier({.channel = 1}), UsageError), {"channel 1 does not exist"});
    refused(EXPECT_THROWS_AS(comm.barrier({.timeout = 0s}), UsageError), {"timeout"});
    const std::span<int> nowhere(static_cast<int*>(nullptr), 2);
    refused(EXPECT_THROWS_AS(comm.broadcast(nowhere), UsageError), {"null"});
    const std::span<int> all(four);
    refused(EXPECT_THROWS_AS(comm.all_reduce(all.first(3), all.last(3), allfold::sum), UsageError), {"overlap"});
    refused(EXPECT_THROWS_AS(comm.all_gather(all.subspan(1, 2), all), UsageError), {"overlap"});
    refused(EXPECT_THROWS_AS(comm.barrier(allfold::CallOptions{.async = true}).source_rank(), UsageError),
            {"no source rank"});
    comm.barrier();
  });
}

TEST_CASE("ranks that call different things get MismatchError") {
  const auto another_type = [](auto& comm) {
    if (comm.rank() == 0) {
      comm.all_reduce(std::vector<float>(10), allfold::sum);
    } else {
      comm.all_reduce(std::vector<int>(10), allfold::sum);
    }
  };
  const auto another_count = [](auto& comm) {
    comm.all_reduce(std::vector<int>(comm.rank() == 0 ? 10 : 11), allfold::sum);
  };
  const auto another_operator = [](auto& comm) {
    std::vector<int> data(50000);
    if (comm.rank() == 0) {
      comm.all_reduce(data, allfold::sum);
    } else {
      comm.all_reduce(data, allfold::max);
    }
  };
  const auto another_operation = [](auto& comm) {
    std::vector<int> data(4);
    if (comm.rank() == 0) {
      comm.all_reduce(data, allfold::sum);
    } else {
      comm.all_gather(std::vector<int>(2), data);
    }
  };
  const auto another_split = [](auto& comm) {
    std::vector<int> data(5);
    comm.all_gather_v(std::vector<int>(2), data, comm.rank() == 0 ? Counts{2, 3} : Counts{3, 2});
  };
  for (const bool checked : {false, true}) {
    all_differ(checked, another_type);
    all_differ(checked, another_count);
    all_differ(checked, another_operator);
    all_differ(checked, another_operation);
    all_differ(checked, another_split);
  }
}

TEST_CASE("checked calls find another root") {
  all_differ(true, [](auto& comm) { comm.broadcast(std::vector<int>(3), {.root = comm.rank()}); });
}

TEST_CASE("a message of another type or size is no message for its receiver") {
  all_differ(false, [](auto& comm) {
    if (comm.rank() == 0) comm.send(std::vector<int>(3), 1);
    if (comm.rank() == 1) {
      comm.receive(std::vector<float>(3), 0);
    } else {
      comm.barrier();
    }
  });
  all_differ(false, [](auto& comm) {
    if (comm.rank() == 0) comm.send(std::vector<int>(3), 1);
    if (comm.rank() == 0) return comm.barrier().wait();
    try {
      comm.receive(std::vector<int>(4), 0);
    } catch (const MismatchError& error) {
      expect_contains(error.what(), {"rank 0 sent a message of 12 bytes; expected 16"});
      throw;
    }
  });
}

TEST_CASE("options are read from the environment, strictly") {
  const auto with = [](const char* name, const char* value) {
    ::setenv(name, value, 1);
    std::string message = [] {
      try {
        static_cast<void>(allfold::MessageOptions{}.with_environment());
        return std::string("taken");
      } catch (const UsageError& error) {
        return std::string(error.what());
      }
    }();
    ::unsetenv(name);
    return message;
  };
  CHECK(with("ALLFOLD_BLOCKING_WAIT", "all") == "taken");
  CHECK(with("ALLFOLD_BLOCKING_WAIT", "all_reduce,broadcast") == "taken");
  for (const char* bad : {"all_reduce,", "allreduce", "all,barrier", "ALL"}) {
    const std::string message = with("ALLFOLD_BLOCKING_WAIT", bad);
    CHECK_MESSAGE(message.find("ALLFOLD_BLOCKING_WAIT is") != message.npos, message);
  }
  for (const char* name : {"ALLFOLD_FUTURES", "ALLFOLD_SHARED_WORKER", "ALLFOLD_ALL_GATHER_BY_V", "ALLFOLD_CHECK_CALLS",
                           "ALLFOLD_HEALTH_CHECK"}) {
    CHECK(with(name, "1") == "taken");
    const std::string message = with(name, "yes");
    CHECK_MESSAGE(message.find(name) != message.npos, message);
  }
  for (const char* name : {"ALLFOLD_HEALTH_CHECK_TIMEOUT_MS", "ALLFOLD_LINGER_MS"}) {
    CHECK(with(name, "250") == "taken");
    for (const char* bad : {"0", "-1", "12x", "99999999999"}) {
      const std::string message = with(name, bad);
      CHECK_MESSAGE(message.find("whole number") != message.npos, message);
    }
  }

  ::setenv("ALLFOLD_BLOCKING_WAIT", "broadcast", 1);
  over_ucx({2}, [](auto& comm) {
    std::vector<int> data(3);
    EXPECT(comm.broadcast(data, allfold::CallOptions{.async = true}).over());
    EXPECT(comm.message_options().blocking_wait == allfold::OperationSet::of(allfold::Operation::broadcast));
    comm.barrier();
  });
  ::unsetenv("ALLFOLD_BLOCKING_WAIT");
}

TEST_CASE("a refused call counts for nothing, and null is refused of every rank") {
  over_ucx({2}, [](auto& comm) {
    std::vector<int> data(4);
    if (comm.rank() == 0) {
      EXPECT_THROWS_AS(comm.barrier({.timeout = 0s}), UsageError);
      EXPECT_THROWS_AS(comm.send(data, 1, {.timeout = -1s}), UsageError);
    }
    comm.barrier();
    const std::span<int> nowhere(static_cast<int*>(nullptr), 4);
    const Counts counts{4, 4};
    const auto refused = [](const std::string& message) { expect_contains(message, {"is null"}); };
    const int root = 1 - comm.rank();
    refused(EXPECT_THROWS_AS(comm.reduce(nowhere, nowhere, allfold::sum, {.root = root}), UsageError));
    refused(EXPECT_THROWS_AS(comm.gather(nowhere, nowhere, {.root = root}), UsageError));
    refused(EXPECT_THROWS_AS(comm.gather_v(nowhere, nowhere, counts, {.root = root}), UsageError));
    refused(EXPECT_THROWS_AS(comm.scatter(nowhere, nowhere, {.root = root}), UsageError));
    refused(EXPECT_THROWS_AS(comm.scatter_v(nowhere, counts, nowhere, {.root = root}), UsageError));
    const std::span<int> all(data);
    const std::span<int> twice[] = {all.first(3), all.last(2)};
    const std::span<const std::span<int>> overlapping(twice);
    expect_contains(EXPECT_THROWS_AS(comm.all_reduce_coalesced(overlapping, allfold::sum), UsageError), {"overlap"});
    // An empty part may lie anywhere.
    comm.all_gather_v(all.subspan(2, comm.rank() == 0 ? 0 : 4 - 2), std::vector<int>(2), Counts{0, 2});
    comm.barrier();
  });
}

TEST_CASE("more channels than tags tell apart are refused") {
  allfold_test::over_processes({1}, [](const allfold::Environment& environment) {
    const auto create = [&] {
      allfold::Communicator<allfold::UcxTransport>::create(environment, allfold::Options{.channels = 64});
    };
    expect_contains(EXPECT_THROWS_AS(create(), UsageError), {"channels is 64", "1 to 63"});
  });
}
