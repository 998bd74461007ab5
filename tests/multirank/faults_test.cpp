// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <allfold/allfold.hpp>

#include <support/dev_shm.hpp>
#include <support/random.hpp>
#include <support/ranks.hpp>

using namespace std::chrono_literals;
using allfold::Algorithm;
using allfold_test::Random;

namespace {

struct EverySelector {
  using policy_category = allfold::selector_tag;
  static constexpr allfold::AlgorithmSet candidates = allfold::AlgorithmSet::all();
  Algorithm select(const allfold::SelectionQuery&) const { return Algorithm::none; }
};

using Comm = allfold::Communicator<EverySelector>;

constexpr auto call_timeout = 3s;

/// What the ranks of one run agree on.
struct Plan {
  std::uint64_t seed;
  int world_size;
  int victim;
  int after_calls;         ///< how many calls the victim makes before its clock starts
  std::uint64_t after_us;  ///< and how long it lives then
  bool symmetric;
};

/// Counts survivors that have noticed; shared by all processes. Survivors end together, so that the death that each
/// notices is the victim's and no other's.
class NoticedCount {
 public:
  NoticedCount()
      : count_(static_cast<int*>(
            ::mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {
    REQUIRE(static_cast<void*>(count_) != MAP_FAILED);
  }
  ~NoticedCount() { ::munmap(count_, sizeof(int)); }
  NoticedCount(const NoticedCount&) = delete;
  NoticedCount& operator=(const NoticedCount&) = delete;

  void reset() { __atomic_store_n(count_, 0, __ATOMIC_RELEASE); }
  void add_and_wait_for(int all) {
    __atomic_fetch_add(count_, 1, __ATOMIC_ACQ_REL);
    const auto deadline = allfold::Deadline::after(30s);
    while (__atomic_load_n(count_, __ATOMIC_ACQUIRE) < all && !deadline.expired()) ::usleep(1000);
  }

 private:
  int* count_;
};

/// Kills this process after a while, from a thread of its own, so that it dies wherever it then is.
void start_clock_of_death(const std::uint64_t& after_us) {
  pthread_t thread;
  const int failure = ::pthread_create(
      &thread, nullptr,
      [](void* us) -> void* {
        ::usleep(static_cast<useconds_t>(*static_cast<const std::uint64_t*>(us)));
        ::kill(::getpid(), SIGKILL);
        return nullptr;
      },
      const_cast<std::uint64_t*>(&after_us));
  EXPECT(failure == 0);
}

template <class Buffer>
void random_call(Comm& comm, Buffer& buffer, Random& random) {
  const std::size_t count = std::size_t{1} << random.below(17);
  const std::uint64_t kind = random.below(8);
  if (kind == 0) return comm.barrier();
  if (kind == 1) {
    std::vector<int> all(static_cast<std::size_t>(comm.world_size()));
    std::iota(all.begin(), all.end(), 0);
    return comm.barrier(all);
  }
  allfold::CallOptions options;
  options.algorithm = random.pick({Algorithm::none, Algorithm::one_shot, Algorithm::two_shot});
  if (count <= 512 && kind < 5)
    options.algorithm = random.pick(
        {Algorithm::one_shot_packet, Algorithm::two_shot_packet, Algorithm::one_shot_push, Algorithm::two_shot_push});
  comm.all_reduce(std::span<float>(buffer.data(), count), allfold::sum, options);
}

/// Makes calls until one fails, and checks what it says.
template <class Buffer>
void run_until_fault(Comm& comm, Buffer& buffer, const Plan& plan, NoticedCount& noticed) {
  Random random(plan.seed);
  allfold::Clock::time_point begin;
  int blamed = -1;
  std::string message;
  try {
    for (int calls = 0;; ++calls) {
      if (comm.rank() == plan.victim && calls == plan.after_calls) start_clock_of_death(plan.after_us);
      begin = allfold::Clock::now();
      random_call(comm, buffer, random);
    }
  } catch (const allfold::PeerError& error) {
    blamed = error.source_rank();
    message = error.what();
  } catch (const allfold::TimeoutError& error) {
    blamed = error.source_rank();
    message = error.what();
  }
  const allfold::Duration took = allfold::Clock::now() - begin;
  noticed.add_and_wait_for(plan.world_size - 1);
  allfold_test::expect_contains(message, {allfold::concat({"rank ", plan.victim}).c_str()});
  if (blamed != plan.victim) throw std::runtime_error(allfold::concat({"blames rank ", blamed, ": ", message}));
  EXPECT(took < call_timeout + 1s);
}

void survive(const allfold::Environment& environment, const Plan& plan, NoticedCount& noticed) {
  Comm comm = Comm::create(environment, allfold::Options{.timeout = call_timeout});
  const std::size_t room = std::size_t{1} << 16;
  if (plan.symmetric) {
    auto buffer = comm.allocate<float>(room);
    run_until_fault(comm, buffer, plan, noticed);
  } else {
    std::vector<float> buffer(room, 1.0F);
    run_until_fault(comm, buffer, plan, noticed);
  }
  // The communicator stays ended, and says so at once.
  const auto again = allfold::Clock::now();
  EXPECT_THROWS_AS(comm.barrier(), allfold::Error);
  EXPECT(allfold::Clock::now() - again < 1s);
}

}  // namespace

TEST_CASE("whenever a rank is killed, every other rank gets an error that names it, in time") {
  const int runs = static_cast<int>(allfold::integer_variable("ALLFOLD_FAULT_RUNS", 1, 1000000).value_or(200));
  Random random(allfold_test::test_seed());
  const std::set<std::string> names_before = allfold_test::names_in_dev_shm();
  NoticedCount noticed;
  for (int run = 0; run < runs; ++run) {
    Plan plan{};
    plan.seed = random.next();
    plan.world_size = static_cast<int>(random.between(2, 5));
    plan.victim = static_cast<int>(random.below(static_cast<std::uint64_t>(plan.world_size)));
    plan.after_calls = static_cast<int>(random.below(50));
    plan.after_us = random.chance(20) ? 0 : random.below(5000);
    plan.symmetric = random.chance(50);
    CAPTURE(run);
    CAPTURE(plan.world_size);
    CAPTURE(plan.victim);
    CAPTURE(plan.after_calls);
    CAPTURE(plan.after_us);
    noticed.reset();
    const auto body = [&](const allfold::Environment& environment) { survive(environment, plan, noticed); };
    const std::vector<allfold::Outcome> outcomes = allfold::launch_outcomes(plan.world_size, body, {.timeout = 60s});
    for (const allfold::Outcome& outcome : outcomes) {
      CAPTURE(outcome.rank);
      if (outcome.rank == plan.victim) {
        CHECK(outcome.signal == SIGKILL);
        CHECK_FALSE(outcome.late);
      } else {
        CHECK(outcome.error == "");
        CHECK(outcome.ok());
      }
    }
  }
  CHECK(allfold_test::names_in_dev_shm() == names_before);
}
