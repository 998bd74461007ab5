// SPDX-License-Identifier: Apache-2.0
// Operations that are under way: Work, and messages of users.
#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <future>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/ucx.hpp>

#include <support/errand.hpp>
#include <support/over_ucx.hpp>
#include <support/ranks.hpp>

using namespace std::chrono_literals;
using allfold::any_source;
using allfold::Work;
using allfold_test::Errand;
using allfold_test::over_ucx;

namespace {

constexpr allfold::CallOptions async{.async = true};

std::size_t n(int rank) { return static_cast<std::size_t>(rank); }

Errand sum_twice(auto& comm, std::vector<int>& data, std::atomic<bool>& ended) {
  co_await comm.all_reduce(data, allfold::sum, async);
  co_await comm.all_reduce(data, allfold::sum, async);
  ended = true;
}

Errand await_error(Work work, std::string& message, std::atomic<bool>& ended) {
  try {
    co_await work;
  } catch (const allfold::Error& error) {
    message = error.what();
  }
  ended = true;
}

}  // namespace

TEST_CASE("many operations are under way at once, and are waited for in another order on each rank") {
  over_ucx({2, 3}, [](auto& comm) {
    constexpr int calls = 30;
    std::vector<std::vector<long long>> data;
    std::vector<Work> works;
    data.reserve(calls);
    works.reserve(calls);
    for (int call = 0; call < calls; ++call) data.emplace_back(call % 3 == 0 ? 40000 : 7, call * 10 + comm.rank());
    for (int call = 0; call < calls; ++call) works.push_back(comm.all_reduce(data[n(call)], allfold::sum, async));
    for (int call = 0; call < calls; ++call) {
      const int next = comm.rank() % 2 == 0 ? call : calls - 1 - call;
      works[n(next)].wait();
      EXPECT(works[n(next)].over() && works[n(next)].done() && !works[n(next)].error());
      EXPECT(works[n(next)].sequence() == static_cast<unsigned>(next) + 2);
    }
    const int ranks = comm.world_size();
    for (int call = 0; call < calls; ++call) {
      const long long want = call * 10 * ranks + ranks * (ranks - 1) / 2;
      EXPECT(data[n(call)].front() == want && data[n(call)].back() == want);
    }
  });
}

TEST_CASE("channels are independent sequences") {
  over_ucx({2},
           [](auto& comm) {
             std::vector<int> a(1000, 1);
             std::vector<int> b(1000, 10);
             const bool first = comm.rank() == 0;
             Work one = comm.all_reduce(first ? a : b, allfold::sum, {.channel = first ? 0 : 1, .async = true});
             Work two = comm.all_reduce(first ? b : a, allfold::sum, {.channel = first ? 1 : 0, .async = true});
             one.wait();
             two.wait();
             EXPECT(a[999] == 2 && b[999] == 20);
           },
           {}, {.timeout = 20s, .channels = 2});
}

TEST_CASE("a wait may end before its operation") {
  over_ucx({2}, [](auto& comm) {
    std::vector<int> data(10);
    if (comm.rank() == 0) {
      Work work = comm.receive(data, 1, async);
      EXPECT(!work.done());
      EXPECT(!work.wait(30ms));
      EXPECT(!work.error());
      comm.send(data, 1);
      EXPECT(work.wait(10s));
      EXPECT(data[9] == 5);
      EXPECT(work.template result<int>().data() == data.data() && work.template result<int>().size() == 10);
      allfold_test::expect_contains(EXPECT_THROWS_AS(work.template result<float>(), allfold::UsageError),
                                    {"another type"});
    } else {
      comm.receive(data, 0);
      comm.send(std::vector<int>(10, 5), 0);
    }
  });
}

TEST_CASE("futures") {
  over_ucx({2}, [](auto& comm) {
    std::vector<int> data(100, comm.rank());
    std::future<void> future = comm.all_reduce(data, allfold::sum, async).future();
    future.get();
    EXPECT(data[99] == 1);
    Work().future().get();
  });
  over_ucx({1},
           [](auto& comm) {
             allfold_test::expect_contains(EXPECT_THROWS_AS(comm.barrier(async).future(), allfold::UsageError),
                                           {"futures are off", "ALLFOLD_FUTURES"});
           },
           {.futures = false});
}

TEST_CASE("a coroutine awaits operations") {
  over_ucx({2}, [](auto& comm) {
    std::vector<int> data(100, 1);
    std::atomic<bool> ended = false;
    sum_twice(comm, data, ended);
    const auto deadline = allfold::Deadline::after(20s);
    while (!ended && !deadline.expired()) comm.progress();
    EXPECT(ended && data[0] == 4);
    comm.barrier();
  });
}

TEST_CASE("messages: tags, order, any source") {
  over_ucx({3}, [](auto& comm) {
    const int me = comm.rank();
    if (me == 0) {
      std::vector<int> a(5), b(5), c(5);
      comm.receive(b, 1, {.tag = 2});
      comm.receive(a, 1, {.tag = 1});
      EXPECT(a[0] == 101 && b[0] == 102);
      for (int i = 0; i < 20; ++i) {
        comm.receive(c, 2, {.tag = 2147483647});
        EXPECT(c[4] == i);
      }
      int from[3] = {};
      for (int i = 0; i < 2; ++i) {
        const Work work = comm.receive(c, any_source, {.tag = 7});
        EXPECT(c[0] == 1000 + work.source_rank());
        ++from[work.source_rank()];
      }
      EXPECT(from[1] == 1 && from[2] == 1);
    }
    if (me == 1) {
      comm.send(std::vector<int>(5, 101), 0, {.tag = 1});
      comm.send(std::vector<int>(5, 102), 0, {.tag = 2});
    }
    if (me == 2) {
      for (int i = 0; i < 20; ++i) comm.send(std::vector<int>(5, i), 0, {.tag = 2147483647});
    }
    if (me != 0) comm.send(std::vector<int>(5, 1000 + me), 0, {.tag = 7});
    // A large message, which waits for its receiver, and an empty one.
    std::vector<char> large(3000000, static_cast<char>(me));
    std::vector<char> got(large.size());
    const Work work = comm.receive(got, (me + 2) % 3, async);
    comm.send(large, (me + 1) % 3);
    work.wait();
    EXPECT(got.back() == static_cast<char>((me + 2) % 3));
    std::vector<char> empty;
    const Work nothing = comm.receive(empty, (me + 2) % 3, async);
    comm.send(empty, (me + 1) % 3);
    nothing.wait();
  });
}

TEST_CASE("a rank sends to itself what it receives") {
  over_ucx({1, 2}, [](auto& comm) {
    std::vector<int> got(3);
    const Work work = comm.receive(got, comm.rank(), {.tag = 3, .async = true});
    comm.send(std::vector<int>(3, 8), comm.rank(), {.tag = 3});
    EXPECT(work.source_rank() == comm.rank() && got[2] == 8);
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.send(got, comm.rank(), {.tag = 3}), allfold::UsageError),
                                  {"wait for ever", "async"});
    comm.barrier();
  });
}

TEST_CASE("an operation that wants more time than it has ends the communicator") {
  over_ucx({2}, [](auto& comm) {
    std::vector<int> data(10);
    if (comm.rank() == 1) {
      std::this_thread::sleep_for(1s);
      allfold_test::expect_contains(EXPECT_THROWS_AS(comm.barrier(), allfold::TimeoutError), {"rank"});
      return;
    }
    const Work work = comm.receive(data, 1, {.timeout = 100ms, .tag = 5, .async = true});
    std::string message;
    std::atomic<bool> ended = false;
    await_error(work, message, ended);
    const std::string thrown = EXPECT_THROWS_AS(work.wait(), allfold::TimeoutError);
    allfold_test::expect_contains(thrown, {"rank 0/2: receive", "rank 1 did not arrive", "100 ms"});
    EXPECT(work.over() && work.error());
    EXPECT(ended && message == thrown);
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.barrier(), allfold::TimeoutError), {"ended earlier", "rank 1"});
    EXPECT_THROWS_AS(comm.status(), allfold::TimeoutError);
  });
}

TEST_CASE("to ask whether an operation is over is enough to learn that it is late") {
  over_ucx({2}, [](auto& comm) {
    std::vector<int> data(10);
    if (comm.rank() == 1) {
      std::this_thread::sleep_for(1s);
      return;
    }
    const Work work = comm.receive(data, 1, {.timeout = 100ms, .tag = 5, .async = true});
    const auto end = allfold::Deadline::after(10s);
    while (!work.done() && !end.expired()) continue;
    EXPECT(work.over() && work.error());
    EXPECT_THROWS_AS(work.wait(), allfold::TimeoutError);
  });
}

TEST_CASE("the progress thread refuses to wait for itself") {
  allfold_test::take_ways("tcp");
  allfold_test::over_processes({2}, [](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<allfold::UcxThreadTransport>::create(environment);
    std::string message;
    std::atomic<bool> ended = false;
    std::vector<int> data(1);
    const auto waits = [](auto& on, std::vector<int>& to, std::string& refusal, std::atomic<bool>& over) -> Errand {
      co_await on.receive(to, 1 - on.rank(), async);  // goes on in the thread
      try {
        on.barrier();
      } catch (const allfold::UsageError& error) {
        refusal = error.what();
      }
      co_await on.barrier(async);  // the refused one does not count
      over = true;
    };
    waits(comm, data, message, ended);
    comm.barrier();
    comm.send(std::vector<int>(1), 1 - comm.rank());
    const auto end = allfold::Deadline::after(10s);
    while (!ended && !end.expired()) std::this_thread::sleep_for(1ms);
    EXPECT(ended);
    allfold_test::expect_contains(message, {"barrier", "wait for itself", "co_await"});
  });
}

TEST_CASE("a communicator may go on its own progress thread") {
  allfold_test::take_ways("tcp");
  allfold_test::over_processes({2}, [](const allfold::Environment& environment) {
    using Comm = allfold::Communicator<allfold::UcxThreadTransport>;
    const auto sums = [](Comm comm, std::vector<int>& data, std::atomic<bool>& over) -> Errand {
      co_await comm.all_reduce(data, allfold::sum, async);
      over = true;  // and the frame goes, with the communicator
    };
    for (int round = 0; round < 3; ++round) {
      std::vector<int> data(200000, 1), unsent(1);
      auto comm = Comm::create(environment);
      const Work never = comm.receive(unsent, comm.rank(), async);
      std::atomic<bool> ended = false;
      sums(std::move(comm), data, ended);
      const auto end = allfold::Deadline::after(20s);
      while (!(ended && never.over()) && !end.expired()) std::this_thread::sleep_for(1ms);
      EXPECT(ended && data.back() == 2);
      allfold_test::expect_contains(EXPECT_THROWS_AS(never.wait(), allfold::UsageError), {"was destroyed"});
    }
    auto last = Comm::create(environment);
    last.barrier();
  });
}

TEST_CASE("a communicator may go before its operations are over") {
  over_ucx({2}, [](auto& comm) {
    using Comm = std::remove_reference_t<decltype(comm)>;
    std::vector<int> data(10);
    comm.barrier();
    Work work;
    {
      Comm gone = std::move(comm);
      if (gone.rank() == 1) return;
      work = gone.receive(data, 0, async);
    }
    allfold_test::expect_contains(EXPECT_THROWS_AS(work.wait(), allfold::UsageError), {"receive", "was destroyed"});
  });
}

TEST_CASE("operations are begun and waited for by several threads") {
  allfold_test::take_ways("tcp");
  allfold_test::over_processes({2}, [](const allfold::Environment& environment) {
    auto comm =
        allfold::Communicator<allfold::UcxThreadTransport>::create(environment, allfold::Options{.channels = 3});
    std::vector<std::vector<int>> data(3, std::vector<int>(2000, 1));
    std::vector<Work> works;
    works.reserve(3);
    for (int c = 0; c < 3; ++c)
      works.push_back(comm.all_reduce(data[n(c)], allfold::sum, {.channel = c, .async = true}));
    std::vector<std::thread> threads;
    threads.reserve(3);
    for (int c = 0; c < 3; ++c) threads.emplace_back([&, c] { works[n(c)].wait(); });
    for (std::thread& thread : threads) thread.join();
    for (int c = 0; c < 3; ++c) EXPECT(data[n(c)][1999] == 2);
  });
}

TEST_CASE("an idle progress thread sleeps") {
  allfold_test::take_ways("tcp");
  allfold_test::over_processes({2}, [](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<allfold::UcxThreadTransport>::create(environment);
    comm.barrier();
    timespec before{}, after{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    std::this_thread::sleep_for(500ms);
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    const auto used = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
    EXPECT(used < 50);
    comm.barrier();
  });
}

TEST_CASE("communicators share a worker, each with a number of its own") {
  over_ucx({2, 3}, [](auto& comm, const allfold::Environment& environment) {
    using Comm = std::remove_reference_t<decltype(comm)>;
    std::vector<int> a(5000, 1), b(5000, 10), c(5000, 100);
    {
      Comm second = Comm::create(environment, comm.transport());
      Comm third = Comm::create(environment, second.transport());
      EXPECT(third.transport().shares_worker());
      EXPECT(comm.transport().link().communicator() == 0 && second.transport().link().communicator() == 1 &&
             third.transport().link().communicator() == 2);
      // In another order on each rank.
      Work works[3];
      if (comm.rank() == 0) {
        works[0] = comm.all_reduce(a, allfold::sum, async);
        works[1] = second.all_reduce(b, allfold::sum, async);
        works[2] = third.all_reduce(c, allfold::sum, async);
      } else {
        works[2] = third.all_reduce(c, allfold::sum, async);
        works[1] = second.all_reduce(b, allfold::sum, async);
        works[0] = comm.all_reduce(a, allfold::sum, async);
      }
      for (const Work& work : works) work.wait();
      const int ranks = comm.world_size();
      EXPECT(a[4999] == ranks && b[4999] == 10 * ranks && c[4999] == 100 * ranks);
    }
    comm.all_reduce(a, allfold::sum);
    Comm again = Comm::create(environment, comm.transport());
    EXPECT(again.transport().link().communicator() == 1);
    Comm alone = Comm::create(environment, comm.transport(), allfold::MessageOptions{.shared_worker = false});
    EXPECT(!alone.transport().shares_worker());
    alone.barrier();
  });
}

TEST_CASE("a failure of one communicator ends those that share its worker") {
  over_ucx({2}, [](auto& comm, const allfold::Environment& environment) {
    using Comm = std::remove_reference_t<decltype(comm)>;
    std::vector<int> data(1000, 1);
    comm.all_reduce(data, allfold::sum);
    Comm second = Comm::create(environment, comm.transport());
    const auto late = [&] { second.receive(data, 1 - comm.rank(), {.timeout = 100ms}); };
    EXPECT_THROWS_AS(late(), allfold::TimeoutError);
    for (int i = 0; i < 3; ++i) {
      EXPECT_THROWS_AS(comm.all_reduce(data, allfold::sum), allfold::TimeoutError);
      EXPECT_THROWS_AS(comm.send(data, 1 - comm.rank()), allfold::TimeoutError);
    }
    Comm third = Comm::create(environment, comm.transport());
    EXPECT(!third.transport().shares_worker());
    third.all_reduce(data, allfold::sum);
    third.barrier();
  });
}
