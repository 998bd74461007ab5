// SPDX-License-Identifier: Apache-2.0
// Who makes progress, and Work, over a link of the test's own: under ThreadSanitizer this is the proof of the thread's
// protocol, for it cannot look into UCX.
#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <exception>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/launch/caller_progress.hpp>
#include <allfold/launch/message_operation.hpp>
#include <allfold/launch/message_progress.hpp>
#include <allfold/launch/thread_progress.hpp>
#include <allfold/work.hpp>

#include <support/errand.hpp>
#include <support/random.hpp>
#include <support/scripted_link.hpp>

using namespace std::chrono_literals;
using allfold::CallerProgress;
using allfold::Clock;
using allfold::Deadline;
using allfold::Task;
using allfold::ThreadProgress;
using allfold::Work;
using allfold_test::Errand;
using allfold_test::Gate;
using allfold_test::HeldErrand;
using allfold_test::ScriptedEndpoint;
using allfold_test::ScriptedLink;

namespace {
std::atomic<bool> aligned_memory_is_missing{false};
}  // namespace

void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto line = static_cast<std::size_t>(alignment);
  void* const at = aligned_memory_is_missing ? nullptr : std::aligned_alloc(line, (bytes + line - 1) / line * line);
  if (at == nullptr) throw std::bad_alloc();
  return at;
}
void operator delete(void* at, std::align_val_t) noexcept { std::free(at); }
void operator delete(void* at, std::size_t, std::align_val_t) noexcept { std::free(at); }

namespace {

/// Counts the operations that have ended, and keeps a token alive as long as its operation.
struct Count {
  std::shared_ptr<std::atomic<int>> ended;

  void ended_once() const noexcept { ++*ended; }
};
struct Report {
  Count count;
  void ended(const allfold::MessageOperation&) const noexcept { count.ended_once(); }
  void around(allfold::FunctionRef<void()> wait) const { wait(); }
};

/// One rank: its link, and who makes progress.
template <template <class> class Kind>
struct Rank {
  using Progress = Kind<ScriptedLink>;

  ScriptedLink link;
  Count count{std::make_shared<std::atomic<int>>(0)};
  Progress progress{link};
  std::shared_ptr<Progress> shown{&progress, [](Progress*) {}};
  std::atomic<std::uint32_t> sequence{0};

  /// Posts `body(endpoint) -> Task<bool>`.
  template <class Body>
  Work post(Body body, allfold::Duration timeout = 20s, bool awaited = false) {
    const std::uint32_t number = sequence++;
    const auto with_source = [body = std::move(body)](ScriptedEndpoint& e, int&) { return body(e); };
    using Call = allfold::MessageCall<ScriptedEndpoint, decltype(with_source), Report>;
    allfold::OperationRef operation(new Call(number, {}, ScriptedEndpoint(link, number), with_source, Report{count}));
    progress.post(operation, timeout, awaited);
    return Work(std::move(operation), shown, allfold::Where("call"), Progress::has_thread, true);
  }
  Work after(int rounds, allfold::Duration timeout = 20s) {
    return post([rounds](ScriptedEndpoint& e) { return wait_rounds(e, rounds); }, timeout);
  }
  Work through(Gate& gate, allfold::Duration timeout = 20s) {
    return post([&gate](ScriptedEndpoint& e) { return pass(e, gate); }, timeout);
  }

  /// As a transport leaves.
  void close() {
    progress.run([this] { link.close(); });
    progress.close();
  }

  /// How many operations have ended, and how many still exist.
  int ended() const { return *count.ended; }
  long alive() const { return count.ended.use_count() - 1; }

  static Task<bool> wait_rounds(ScriptedEndpoint& e, int rounds) {
    auto first = e.after(rounds / 2);
    auto second = e.after(rounds);
    co_return co_await allfold::ended(first, second);
  }
  static Task<bool> pass(ScriptedEndpoint& e, Gate& gate) {
    auto arrival = e.through(gate);
    co_return co_await allfold::ended(arrival);
  }
};

template <class T>
struct KindOf;
template <template <class> class Kind, class Link>
struct KindOf<Kind<Link>> {
  using type = Rank<Kind>;
};

#define EACH_KIND CallerProgress<ScriptedLink>, ThreadProgress<ScriptedLink>
template <class T>
using RankOf = typename KindOf<T>::type;

/// Awaits it and tells how it ended: 1 well, 2 with an error.
Errand await_end(Work work, std::atomic<int>& how) {
  try {
    co_await work;
    how = 1;
  } catch (const allfold::Error&) {
    how = 2;
  }
}

HeldErrand await_and_count(Work work, std::atomic<int>& resumed) {
  co_await work;
  ++resumed;
}

/// Whether it ends with an error of that type, whose text has `piece`.
template <class E>
bool fails_with(const Work& work, const std::string& piece) {
  try {
    work.wait();
  } catch (const E& error) {
    return std::string(error.what()).find(piece) != std::string::npos;
  } catch (...) {
  }
  return false;
}

bool soon(auto&& holds) {
  const Deadline end = Deadline::after(10s);
  while (!holds() && !end.expired()) std::this_thread::sleep_for(1ms);
  return holds();
}

}  // namespace

TEST_CASE_TEMPLATE("operations go side by side, and are waited for in any order", T, EACH_KIND) {
  RankOf<T> rank;
  std::vector<Work> works;
  works.reserve(40);
  for (int i = 0; i < 40; ++i) works.push_back(rank.after(i * 7 % 23));
  for (int i = 39; i >= 0; --i) {
    const Work& work = works[static_cast<std::size_t>(i)];
    work.wait();
    CHECK((work.over() && work.done() && !work.error()));
    CHECK(work.sequence() == static_cast<unsigned>(i));
  }
  CHECK(rank.ended() == 40);
  works.clear();
  CHECK(soon([&] { return rank.alive() == 0; }));
}

TEST_CASE_TEMPLATE("a wait ends before its operation, which goes on", T, EACH_KIND) {
  RankOf<T> rank;
  Gate gate(rank.link);
  const Work work = rank.through(gate);
  const Clock::time_point begin = Clock::now();
  CHECK_FALSE(work.wait(30ms));
  CHECK(Clock::now() - begin >= 30ms);
  CHECK((!work.over() && !work.error()));
  CHECK_FALSE(work.wait(0ms));
  gate.open();
  CHECK(work.wait(10s));
  CHECK(work.wait(0ms));
}

TEST_CASE_TEMPLATE("what never ends is late, and everything fails with it", T, EACH_KIND) {
  RankOf<T> rank;
  Gate never(rank.link);
  const Work patient = rank.through(never);
  const Clock::time_point begin = Clock::now();
  const Work late = rank.through(never, 40ms);
  CHECK(fails_with<allfold::TimeoutError>(late, "call 1 was late"));
  CHECK(Clock::now() - begin >= 40ms);
  CHECK(Clock::now() - begin < 2s);
  CHECK(fails_with<allfold::TimeoutError>(patient, "call 1 was late"));
  CHECK(rank.link.failed());
  CHECK(fails_with<allfold::TimeoutError>(rank.after(3), "call 1 was late"));
  CHECK(rank.ended() == 3);
}

TEST_CASE_TEMPLATE("whoever only asks whether it is over learns of its deadline too", T, EACH_KIND) {
  RankOf<T> rank;
  Gate never(rank.link);
  const Work work = rank.through(never, 40ms);
  const Deadline end = Deadline::after(5s);
  while (!work.done() && !end.expired()) continue;
  REQUIRE(work.over());
  CHECK(fails_with<allfold::TimeoutError>(work, "late"));
}

TEST_CASE_TEMPLATE("a failure in the middle ends all that is under way", T, EACH_KIND) {
  RankOf<T> rank;
  Gate never(rank.link);
  std::vector<Work> works;
  std::deque<std::atomic<int>> how;
  for (int i = 0; i < 8; ++i) {
    works.push_back(rank.through(never));
    await_end(works.back(), how.emplace_back(0));
  }
  std::thread breaks([&] {
    std::this_thread::sleep_for(10ms);
    rank.link.break_off();
  });
  for (const Work& work : works) CHECK(fails_with<allfold::PeerError>(work, "rank 5 is gone"));
  breaks.join();
  for (const std::atomic<int>& each : how) CHECK(soon([&] { return each == 2; }));
  CHECK(rank.ended() == 8);
}

TEST_CASE_TEMPLATE("a coroutine that is destroyed while it awaits is not resumed, and the others are", T, EACH_KIND) {
  for (int destroyed = 0; destroyed < 3; ++destroyed) {
    RankOf<T> rank;
    Gate gate(rank.link);
    const Work work = rank.through(gate);
    std::atomic<int> resumed{0};
    std::vector<HeldErrand> errands;
    errands.reserve(3);
    for (int i = 0; i < 3; ++i) errands.push_back(await_and_count(work, resumed));
    errands[static_cast<std::size_t>(destroyed)].destroy();
    gate.open();
    work.wait();
    CHECK(soon([&] { return resumed == 2; }));
    rank.close();  // so that nobody is still being told
    CHECK(resumed == 2);
  }
}

TEST_CASE_TEMPLATE("coroutines are destroyed where progress is made, whether they still await or not", T, EACH_KIND) {
  RankOf<T> rank;
  std::atomic<int> resumed{0};
  int destroyed = 0;
  for (int round = 0; round < 200; ++round) {
    const int before = resumed;
    const Work work = rank.after(round % 50);
    HeldErrand errand = await_and_count(work, resumed);
    rank.progress.run([&] { errand.destroy(); });
    destroyed += resumed == before ? 1 : 0;
    work.wait();
  }
  rank.close();
  CHECK(resumed + destroyed == 200);
}

TEST_CASE_TEMPLATE("an exception of a body crosses to who waits, and ends the others", T, EACH_KIND) {
  RankOf<T> rank;
  Gate never(rank.link);
  const Work other = rank.through(never);
  const Work throws = rank.post([](ScriptedEndpoint& e) -> Task<bool> {
    auto soon_over = e.after(2);
    co_await allfold::ended(soon_over);
    throw std::bad_alloc();
  });
  CHECK_THROWS_AS(throws.wait(), std::bad_alloc);
  CHECK(fails_with<allfold::PeerError>(other, "gave up"));
}

TEST_CASE_TEMPLATE("memory that is missing as a call begins is an error of that call", T, EACH_KIND) {
  RankOf<T> rank;
  aligned_memory_is_missing = true;  // which frames of coroutines come from
  const Work work = rank.after(1);
  CHECK(soon([&] { return work.done(); }));
  aligned_memory_is_missing = false;
  CHECK_THROWS_AS(work.wait(), std::bad_alloc);
  CHECK(rank.ended() == 1);
}

TEST_CASE_TEMPLATE("close ends what is under way, and tells all who listen", T, EACH_KIND) {
  RankOf<T> rank;
  Gate never(rank.link);
  const Work work = rank.through(never);
  std::atomic<int> how{0};
  await_end(work, how);
  std::future<void> future = work.future();
  rank.close();
  CHECK(how == 2);
  CHECK(fails_with<allfold::UsageError>(work, "the link was closed"));
  CHECK_THROWS_AS(future.get(), allfold::UsageError);
  CHECK(rank.ended() == 1);
}

TEST_CASE_TEMPLATE("a call that is begun after close, or by a listener during it, is over with an error", T,
                   EACH_KIND) {
  RankOf<T> rank;
  Gate never(rank.link);
  std::atomic<int> tries{0};
  const auto try_again = [](RankOf<T>& on, Gate& gate, std::atomic<int>& count) -> Errand {
    for (int i = 0; i < 3; ++i) {
      try {
        co_await on.through(gate);
      } catch (const allfold::UsageError&) {
        ++count;
      }
    }
  };
  try_again(rank, never, tries);
  rank.close();
  CHECK(tries == 3);
  const Work work = rank.after(1);
  CHECK_THROWS_AS(work.wait(1s), allfold::UsageError);
  CHECK(rank.ended() == 4);
}

TEST_CASE_TEMPLATE("run: where progress is made, with what it throws, also after close", T, EACH_KIND) {
  RankOf<T> rank;
  Gate never(rank.link);
  const Work work = rank.through(never);
  CHECK_THROWS_AS(rank.progress.run([] { throw std::bad_alloc(); }), std::bad_alloc);
  std::thread::id ran;
  bool within = false;
  rank.progress.run([&] {
    ran = std::this_thread::get_id();
    rank.progress.run([&] { within = true; });
    rank.link.close();
  });
  CHECK(within);
  CHECK((ran == std::this_thread::get_id()) == !T::has_thread);
  CHECK(work.over());  // it was concluded before run() returned
  rank.progress.close();
  rank.progress.run([&] { ran = {}; });
  CHECK(ran == std::thread::id());
}

TEST_CASE("many threads run things beside their operations") {
  Rank<ThreadProgress> rank;
  int plain = 0;  // of the progress thread alone
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int turn = 0; turn < 100; ++turn) {
        const Work work = rank.after(turn % 9);
        rank.progress.run([&] { ++plain; });
        if (turn % 10 == 0) std::this_thread::sleep_for(200us);
        work.wait();
      }
    });
  }
  for (std::thread& each : threads) each.join();
  rank.close();
  CHECK(plain == 400);
}

TEST_CASE("close wakes the threads that wait") {
  Rank<ThreadProgress> rank;
  Gate never(rank.link);
  std::vector<Work> works;
  works.reserve(4);
  for (int i = 0; i < 4; ++i) works.push_back(rank.through(never));
  std::atomic<int> failed{0};
  std::vector<std::thread> waiters;
  waiters.reserve(4);
  for (const Work& work : works) {
    waiters.emplace_back([&failed, work] { failed += fails_with<allfold::UsageError>(work, "closed") ? 1 : 0; });
  }
  std::this_thread::sleep_for(30ms);
  rank.close();
  for (std::thread& each : waiters) each.join();
  CHECK(failed == 4);
}

TEST_CASE("the thread has a name, and sleeps while nothing moves") {
  Rank<ThreadProgress> rank;
  Gate gate(rank.link);
  rank.after(2).wait();
  bool named = false;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    named = named || name == "allfold";
  }
  CHECK(named);

  const auto cpu_ms = [] {
    timespec used{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return used.tv_sec * 1000 + used.tv_nsec / 1000000;
  };
  const auto before = cpu_ms();
  const int sleeps_before = rank.link.sleeps;
  std::this_thread::sleep_for(300ms);
  CHECK(rank.link.sleeps - sleeps_before <= 3);
  // While a call waits it looks at the peers, and sleeps in between.
  const Work work = rank.through(gate);
  const int looks_before = rank.link.looks;
  std::this_thread::sleep_for(300ms);
  CHECK(rank.link.looks - looks_before >= 3);
  CHECK(cpu_ms() - before < 100);
  gate.open();
  work.wait();
}

TEST_CASE("a call or a message wakes the thread at once") {
  Rank<ThreadProgress> rank;
  int prompt = 0;
  constexpr int rounds = 30;
  for (int round = 0; round < rounds; ++round) {
    std::this_thread::sleep_for(4ms);  // it sleeps, for half a second unless it is woken
    Gate gate(rank.link);
    const Clock::time_point begin = Clock::now();
    const Work work = rank.through(gate);
    if (round % 2 == 0) std::this_thread::sleep_for(3ms);
    gate.open();
    work.wait();
    prompt += Clock::now() - begin < 100ms ? 1 : 0;
  }
  CHECK(prompt >= rounds / 2);  // the machine may be busy
}

TEST_CASE("who waits makes progress himself, and coroutines go on there") {
  Rank<ThreadProgress> rank;
  const auto note = [](Work work, std::thread::id& where) -> Errand {
    co_await work;
    where = std::this_thread::get_id();
  };
  int here = 0;
  constexpr int rounds = 100;
  for (int round = 0; round < rounds; ++round) {
    const Work work = rank.post([](ScriptedEndpoint& e) { return Rank<ThreadProgress>::wait_rounds(e, 5); }, 20s, true);
    std::thread::id where;
    note(work, where);
    work.wait();
    here += where == std::this_thread::get_id() ? 1 : 0;
  }
  CHECK(here >= rounds / 2);  // the thread may be at it
  CHECK(rank.progress.may_wait());
}

TEST_CASE("who waits for long sleeps, and the thread goes on for him") {
  Rank<ThreadProgress> rank;
  Gate gate(rank.link);
  const Work work = rank.through(gate);
  const auto cpu_ms = [] {
    timespec used{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return used.tv_sec * 1000 + used.tv_nsec / 1000000;
  };
  const auto before = cpu_ms();
  CHECK_FALSE(work.wait(300ms));
  CHECK(cpu_ms() - before < 100);
  std::thread opens([&] {
    std::this_thread::sleep_for(50ms);
    gate.open();
  });
  work.wait();
  CHECK(cpu_ms() - before < 150);
  opens.join();
}

TEST_CASE("close is never slept through") {
  const std::uint64_t seed = allfold_test::test_seed();
  allfold_test::Random random(seed);
  int slept_through = 0;
  for (int round = 0; round < 400; ++round) {
    const Clock::time_point begin = Clock::now();
    Rank<ThreadProgress> rank;
    // Around the instant at which it falls asleep for the first time.
    const Clock::time_point until = Clock::now() + std::chrono::microseconds(random.below(120));
    while (Clock::now() < until) continue;
    const bool at_once = Clock::now() - begin < 100ms;  // else the machine is busy, and it may have slept half a second
    rank.progress.close();
    slept_through += at_once ? rank.link.slept_out.load() : 0;
  }
  CHECK(slept_through == 0);
}

namespace {

/// Lets go of the rank where it goes on after an operation of so many rounds: 1 on the calling thread, 2 on another.
Errand let_go_after(std::shared_ptr<Rank<ThreadProgress>> rank, int rounds, std::atomic<int>& where) {
  const std::thread::id caller = std::this_thread::get_id();
  co_await rank->after(rounds);
  rank.reset();
  where = std::this_thread::get_id() == caller ? 1 : 2;
}

}  // namespace

TEST_CASE("a coroutine lets go of the progress thread on which it goes on") {
  int on_the_thread = 0;
  for (int round = 0; round < 40; ++round) {
    auto rank = allfold::make_progressing<Rank<ThreadProgress>>();
    Count count = rank->count;
    Gate never(rank->link);
    Work other = rank->through(never);
    std::atomic<int> told{0};
    await_end(other, told);
    std::atomic<int> where{0};
    let_go_after(std::move(rank), 2000, where);
    CHECK(soon([&] { return where != 0 && told != 0; }));
    CHECK(told == 2);
    CHECK_THROWS_AS(other.wait(), allfold::UsageError);
    on_the_thread += where - 1;
    other = Work();
    CHECK(soon([&] { return count.ended.use_count() == 1; }));  // nothing is left of the rank
    CHECK(*count.ended == 2);
  }
  CHECK(on_the_thread > 0);
}

TEST_CASE("the progress thread refuses to wait for itself") {
  Rank<ThreadProgress> rank;
  Gate gate(rank.link);
  std::atomic<int> refused{0};
  const auto waits = [](Rank<ThreadProgress>& on, Gate& at, std::atomic<int>& how) -> Errand {
    co_await on.through(at);
    try {
      on.after(1).wait();
      how = 2;
    } catch (const allfold::UsageError&) {
      how = 1;
    }
  };
  waits(rank, gate, refused);
  gate.open();
  CHECK(soon([&] { return refused != 0; }));
  CHECK(refused == 1);
}

namespace {

/// One thread of a random test: posts, and is told of each end in a way that chance picks.
class Player {
 public:
  Player(Rank<ThreadProgress>& rank, std::uint64_t seed, std::deque<Gate>& gates, std::mutex& gates_mutex)
      : rank_(rank), random_(seed), gates_(gates), gates_mutex_(gates_mutex) {}

  void play(int turns) {
    for (int turn = 0; turn < turns; ++turn) {
      Gate* gate = nullptr;
      const Work work =
          random_.chance(40) ? rank_.through(*(gate = &new_gate())) : rank_.after(static_cast<int>(random_.below(60)));
      const bool opens_first = random_.chance(50);
      if (gate != nullptr && opens_first) gate->open();
      if (random_.chance(20)) works_.push_back(work);
      tell(work, gate, opens_first);
      if (random_.chance(3)) std::this_thread::sleep_for(std::chrono::microseconds(random_.below(3000)));
    }
    for (const Work& work : works_) work.wait();
    for (std::future<void>& future : futures_) future.get();
  }

  int awaited() const { return awaited_; }
  int told() const { return told_; }

 private:
  Gate& new_gate() {
    const std::lock_guard lock(gates_mutex_);
    return gates_.emplace_back(rank_.link);
  }

  void tell(const Work& work, Gate* gate, bool opened) {
    const auto open = [&] {
      if (gate != nullptr && !std::exchange(opened, true)) gate->open();
    };
    switch (random_.below(6)) {
      case 0:
        open();
        work.wait();
        break;
      case 1:
        while (!work.wait(std::chrono::microseconds(random_.below(300)))) open();
        break;
      case 2:
        open();
        while (!work.done()) std::this_thread::yield();
        break;
      case 3: futures_.push_back(work.future()); break;
      case 4:
        ++told_;
        count(work, awaited_);
        break;
      default:
        ++told_;
        count_two(rank_, work, awaited_);
        break;
    }
    open();
  }

  static Errand count(Work work, std::atomic<int>& awaited) {
    co_await work;
    ++awaited;
  }
  /// Begins another on the progress thread.
  static Errand count_two(Rank<ThreadProgress>& rank, Work work, std::atomic<int>& awaited) {
    co_await work;
    co_await rank.after(3);
    ++awaited;
  }

  Rank<ThreadProgress>& rank_;
  allfold_test::Random random_;
  std::deque<Gate>& gates_;
  std::mutex& gates_mutex_;
  std::vector<Work> works_;
  std::vector<std::future<void>> futures_;
  int told_ = 0;
  std::atomic<int> awaited_{0};
};

}  // namespace

TEST_CASE("many threads begin operations, and wait for them in every way") {
  const std::uint64_t seed = allfold_test::test_seed();
  Rank<ThreadProgress> rank;
  std::mutex gates_mutex;
  std::deque<Gate> gates;
  std::deque<Player> players;
  for (std::uint64_t i = 0; i < 4; ++i) players.emplace_back(rank, seed + i, gates, gates_mutex);
  std::vector<std::thread> threads;
  threads.reserve(players.size());
  for (Player& player : players) threads.emplace_back([&player] { player.play(400); });
  for (std::thread& thread : threads) thread.join();
  for (const Player& player : players) CHECK(soon([&] { return player.awaited() == player.told(); }));
  CHECK_FALSE(rank.link.failed());
  players.clear();
  CHECK(soon([&] { return rank.alive() == 0; }));
  CHECK(rank.ended() == static_cast<int>(rank.sequence));
}

TEST_CASE("many threads, and an end in the middle: by failure, lateness or close") {
  const std::uint64_t seed = allfold_test::test_seed();
  allfold_test::Random random(seed);
  for (int round = 0; round < 30; ++round) {
    Rank<ThreadProgress> rank;
    Gate never(rank.link);
    std::atomic<int> told{0};
    std::vector<std::thread> threads;
    threads.reserve(4);
    std::deque<std::atomic<int>> how(4);
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        // Until the end comes; what is begun afterwards ends with an error too.
        for (int turn = 0; turn < 20000; ++turn) {
          const Work work = turn % 5 == 0 ? rank.through(never) : rank.after(turn % 7);
          if (turn == 0) await_end(work, how[static_cast<std::size_t>(i)]);
          try {
            if (turn % 5 == 0 && !work.wait(200us)) continue;
            work.wait();
          } catch (const allfold::Error&) {
            ++told;
            return;
          }
        }
      });
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random.below(4000)));
    switch (round % 3) {
      case 0: rank.link.break_off(); break;
      case 1: static_cast<void>(rank.through(never, 1ms)); break;
      default: rank.close(); break;
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(told == 4);
    for (const std::atomic<int>& each : how) CHECK(soon([&] { return each == 2; }));
    rank.close();
    CHECK(rank.ended() == static_cast<int>(rank.sequence));
    CHECK(rank.alive() == 0);
  }
}
