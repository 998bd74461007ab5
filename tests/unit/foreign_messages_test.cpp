// SPDX-License-Identifier: Apache-2.0
// A transport of messages that is a program's own, in a program without UCX.
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/messages.hpp>

#include <support/errand.hpp>
#include <support/mail_transport.hpp>
#include <support/random.hpp>
#include <support/ranks.hpp>

#if defined(UCP_API_VERSION)
#error "a program that includes allfold/messages.hpp has included UCX"
#endif

using namespace std::chrono_literals;
using allfold::Work;

namespace {

constexpr allfold::CallOptions async{.async = true};

/// Runs `body(communicator)` in a thread a rank, for each world size, with each kind of progress.
template <class Body>
void by_mail(std::initializer_list<int> world_sizes, Body body,
             const allfold::SourceLocation& at = allfold::SourceLocation::current()) {
  const allfold::Options options{.timeout = 20s, .channels = 2};
  const auto with = [&]<class Transport>(Transport) {
    allfold_test::over_threads(
        world_sizes,
        [&](const allfold::Environment& environment) {
          auto comm = allfold::Communicator<Transport>::create(environment, options);
          body(comm);
        },
        allfold_test::rank_timeout, at);
  };
  with(allfold_test::MailTransport());
  with(allfold_test::MailThreadTransport());
}

}  // namespace

TEST_CASE("collectives") {
  by_mail({1, 2, 3, 4}, [](auto& comm) {
    const int ranks = comm.world_size();
    const auto n = static_cast<std::size_t>(ranks);
    for (const std::size_t count : {std::size_t{0}, std::size_t{3}, std::size_t{20000}}) {
      std::vector<int> x(count, comm.rank() + 1);
      comm.all_reduce(x, allfold::sum);
      EXPECT(x == std::vector<int>(count, ranks * (ranks + 1) / 2));
      std::vector<int> all(count * n);
      comm.all_gather(std::vector<int>(count, comm.rank()), all);
      for (std::size_t i = 0; i < all.size(); ++i) EXPECT(all[i] == static_cast<int>(i / count));
      comm.broadcast(x, {.root = ranks - 1});
      std::vector<int> swapped(count * n);
      comm.all_to_all(all, swapped);
      EXPECT(swapped == std::vector<int>(count * n, comm.rank()));
    }
    comm.barrier();
  });
}

TEST_CASE("messages, and calls that are under way together") {
  by_mail({3}, [](auto& comm) {
    std::vector<int> a(1000, 1), b(10, 10), got(4);
    const Work first = comm.all_reduce(a, allfold::sum, {.channel = 0, .async = true});
    const Work second = comm.all_reduce(b, allfold::max, {.channel = 1, .async = true});
    if (comm.rank() == 0) {
      for (int i = 0; i < 2; ++i) {
        const Work work = comm.receive(got, allfold::any_source, {.tag = 7});
        EXPECT(got[3] == work.source_rank());
      }
    } else {
      comm.send(std::vector<int>(4, comm.rank()), 0, {.tag = 7});
    }
    second.wait();
    first.wait();
    EXPECT(a[999] == 3 && b[9] == 10);
  });
}

TEST_CASE("a rank that leaves is named, and one that is late") {
  by_mail({2}, [](auto& comm) {
    using Comm = std::remove_reference_t<decltype(comm)>;
    std::vector<int> x(10);
    if (comm.rank() == 1) {
      const Comm gone = std::move(comm);
      return;
    }
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.receive(x, 1), allfold::PeerError), {"rank 0/2", "rank 1"});
    EXPECT_THROWS_AS(comm.status(), allfold::PeerError);
  });
  by_mail({2}, [](auto& comm) {
    std::vector<int> x(10);
    const Work work = comm.receive(x, 1 - comm.rank(), {.timeout = 50ms, .async = true});
    EXPECT_THROWS_AS(work.wait(), allfold::TimeoutError);
    EXPECT_THROWS_AS(comm.barrier(), allfold::TimeoutError);
  });
}

namespace {

/// Notes which algorithms run.
struct AlgorithmNotes {
  using policy_category = allfold::tracer_tag;
  static constexpr bool enabled = true;
  std::vector<std::string> algorithms;
  void record(const allfold::TraceEvent& event) { algorithms.emplace_back(event.algorithm); }
};

/// A selector of a program's own for both kinds of transport: it answers what either asks.
struct Taste : allfold::MessageThresholds {
  static constexpr allfold::AlgorithmSet candidates = allfold::AlgorithmSet::of(allfold::Algorithm::one_shot_packet);
  allfold::Algorithm select(const allfold::SelectionQuery& query) const {
    const bool can = query.possible.contains(allfold::Algorithm::one_shot_packet);
    return can ? allfold::Algorithm::one_shot_packet : allfold::Algorithm::none;
  }
  allfold::AllReduceMotion all_reduce(const allfold::MessageQuery&) const { return allfold::AllReduceMotion::bruck; }
};

template <class Transport, class Selector>
void expect_algorithm(const char* algorithm) {
  allfold_test::over_threads({2}, [&](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<Transport, Selector, AlgorithmNotes>::create(environment);
    std::vector<int> x(100, 1);
    comm.all_reduce(x, allfold::sum, {.fast = true});
    EXPECT(x[99] == 2);
    allfold_test::expect_contains(comm.tracer().algorithms.back(), {algorithm});
  });
}

}  // namespace

TEST_CASE("a program changes its transport and keeps its selector") {
  using Fixed = allfold::FixedSelector<allfold::Algorithm::one_shot_packet, allfold::AllReduceMotion::ring>;
  expect_algorithm<allfold::ShmTransport, Fixed>("one_shot_packet");
  expect_algorithm<allfold_test::MailTransport, Fixed>("ring");
  expect_algorithm<allfold::ShmTransport, Taste>("one_shot_packet");
  expect_algorithm<allfold_test::MailTransport, Taste>("bruck");
}

TEST_CASE("a communicator may go before its operations are over") {
  by_mail({2}, [](auto& comm) {
    using Comm = std::remove_reference_t<decltype(comm)>;
    std::vector<int> x(10);
    Work work;
    {
      Comm gone = std::move(comm);
      work = gone.receive(x, gone.rank(), async);
    }
    allfold_test::expect_contains(EXPECT_THROWS_AS(work.wait(), allfold::UsageError), {"receive", "was destroyed"});
  });
}

namespace {

/// Has the communicator, and it goes with the frame.
allfold_test::Errand sum_and_go(auto comm, std::vector<int>& data, std::atomic<bool>& over) {
  co_await comm.all_reduce(data, allfold::sum, async);
  over = true;
}

}  // namespace

TEST_CASE("a communicator may go on its own progress thread") {
  allfold_test::over_threads({2}, [](const allfold::Environment& environment) {
    using Comm = allfold::Communicator<allfold_test::MailThreadTransport>;
    for (int round = 0; round < 10; ++round) {
      std::vector<int> data(1000, 1), unsent(1);
      auto comm = Comm::create(environment);
      const Work never = comm.receive(unsent, comm.rank(), async);
      std::atomic<bool> over = false;
      sum_and_go(std::move(comm), data, over);
      const auto end = allfold::Deadline::after(20s);
      while (!(over && never.over()) && !end.expired()) std::this_thread::sleep_for(1ms);
      EXPECT(over && data.back() == 2);
      allfold_test::expect_contains(EXPECT_THROWS_AS(never.wait(), allfold::UsageError), {"was destroyed"});
    }
  });
}

namespace {

/// A tracer that is slow to write what waits there were, and notes whether it has gone meanwhile.
class SlowTracer {
 public:
  using policy_category = allfold::tracer_tag;
  static constexpr bool enabled = true;
  struct Notes {
    std::atomic<bool> begun{false};
    std::atomic<bool> gone{false};
    std::atomic<int> waits{0};
    std::atomic<int> waits_beyond{0};  ///< that were written when it had gone
  };

  explicit SlowTracer(std::shared_ptr<Notes> notes = nullptr) : notes_(std::move(notes)) {}
  SlowTracer(const SlowTracer& other) : notes_(other.notes_) {}
  SlowTracer(SlowTracer&&) noexcept = default;
  ~SlowTracer() {
    if (opened_) notes_->gone = true;
  }

  void open(int, int) { opened_ = true; }
  std::uint64_t begin(const allfold::TraceEvent& event) {
    if (event.kind == allfold::TraceKind::wait) notes_->begun = true;
    return 0;
  }
  void record(const allfold::TraceEvent& event) {
    const std::shared_ptr<Notes> notes = notes_;
    if (event.kind != allfold::TraceKind::wait) return;
    std::this_thread::sleep_for(20ms);
    ++notes->waits;
    if (notes->gone) ++notes->waits_beyond;
  }

 private:
  std::shared_ptr<Notes> notes_;
  bool opened_ = false;
};

}  // namespace

TEST_CASE("who waits has the tracer until he has come out, though the communicator goes") {
  allfold_test::over_threads({2}, [](const allfold::Environment& environment) {
    const auto notes = std::make_shared<SlowTracer::Notes>();
    std::vector<int> unsent(1);
    std::optional comm =
        allfold::Communicator<allfold_test::MailThreadTransport, SlowTracer>::create(environment, SlowTracer(notes));
    const Work never = comm->receive(unsent, comm->rank(), async);
    std::thread waiter([&] {
      try {
        never.wait();
      } catch (const allfold::UsageError&) {
      }
    });
    while (!notes->begun) std::this_thread::sleep_for(1ms);
    comm.reset();
    waiter.join();
    EXPECT(notes->waits == 1 && notes->waits_beyond == 0 && notes->gone);
  });
}

TEST_CASE("a communicator goes while threads are about to wait for its operations") {
  const std::uint64_t seed = allfold_test::test_seed();
  allfold_test::over_threads({2}, [&](const allfold::Environment& environment) {
    allfold_test::Random random(seed + static_cast<std::uint64_t>(environment.rank));
    for (int round = 0; round < 20; ++round) {
      std::vector<int> unsent(1);
      std::optional comm = allfold::Communicator<allfold_test::MailThreadTransport>::create(environment);
      const Work never = comm->receive(unsent, comm->rank(), async);
      std::atomic<bool> go = false;
      std::atomic<int> refused = 0;
      std::vector<std::thread> waiters;
      waiters.reserve(2);
      for (int i = 0; i < 2; ++i) {
        waiters.emplace_back([&, asks = i == 0, pause = random.below(100)] {
          while (!go) std::this_thread::yield();
          std::this_thread::sleep_for(std::chrono::microseconds(pause));
          while (asks && !never.done()) continue;
          try {
            never.wait();
          } catch (const allfold::UsageError&) {
            ++refused;
          }
        });
      }
      go = true;
      std::this_thread::sleep_for(std::chrono::microseconds(random.below(100)));
      comm.reset();
      for (std::thread& waiter : waiters) waiter.join();
      EXPECT(refused == 2);
    }
  });
}

TEST_CASE_TEMPLATE("a communicator goes by a coroutine that a wait resumes", Transport, allfold_test::MailTransport,
                   allfold_test::MailThreadTransport) {
  allfold_test::over_threads({1, 2}, [](const allfold::Environment& environment) {
    const auto notes = std::make_shared<SlowTracer::Notes>();
    std::vector<int> data(1000, 1), unsent(1);
    auto comm = allfold::Communicator<Transport, SlowTracer>::create(environment, SlowTracer(notes));
    const int ranks = comm.world_size();
    const Work never = comm.receive(unsent, comm.rank(), async);
    std::atomic<bool> over = false;
    sum_and_go(std::move(comm), data, over);
    EXPECT_THROWS_AS(never.wait(), allfold::UsageError);
    EXPECT(over && data.back() == ranks && notes->waits_beyond == 0);
    const auto end = allfold::Deadline::after(20s);
    while (!notes->gone && !end.expired()) std::this_thread::sleep_for(1ms);  // a thread of its own ends it
    EXPECT(notes->gone);
  });
}
