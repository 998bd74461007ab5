// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <pthread.h>
#include <unistd.h>

#include <allfold/allfold.cuh>

#include <support/gpu_all_reduce.cuh>
#include <support/random.hpp>

using namespace std::chrono_literals;
using allfold::Algorithm;
using allfold_test::Random;
using allfold_test::RankGpu;

namespace {

using Comm = allfold::Communicator<allfold::NvlinkTransport, allfold_test::EverySelector>;
using Plain = allfold::Communicator<allfold::NvlinkTransport,
                                    allfold_test::SomeSelector<Algorithm::one_shot, Algorithm::one_shot_packet>>;

constexpr std::initializer_list<Algorithm> algorithms = {
    Algorithm::none,     Algorithm::one_shot,        Algorithm::one_shot_packet, Algorithm::one_shot_push,
    Algorithm::two_shot, Algorithm::two_shot_packet, Algorithm::two_shot_push};

__global__ void increment(int* x) { *x += 1; }

/// A sum that a GPU stops at for a second and a half where the last rank's operand is the marker.
struct StallingSum {
  static constexpr float marker = 123456;

  ALLFOLD_HD float operator()(float a, float b) const {
#ifdef __CUDA_ARCH__
    if (b == marker) {
      const std::uint64_t end = allfold::ptx::now_ns() + 1500000000;
      while (allfold::ptx::now_ns() < end) __nanosleep(10000);
    }
#endif
    return a + b;
  }
};

/// The context that a collective failed in still runs kernels and copies.
void expect_cuda_lives(RankGpu& gpu, int* device_word) {
  EXPECT_CUDA(cudaGetLastError());
  int value = 41;
  EXPECT_CUDA(cudaMemcpyAsync(device_word, &value, sizeof value, cudaMemcpyHostToDevice, gpu.stream()));
  increment<<<1, 1, 0, gpu.stream()>>>(device_word);
  EXPECT_CUDA(cudaGetLastError());
  gpu.copy(&value, device_word, sizeof value);
  EXPECT(value == 42);
}

/// Rank 1 stays away from one call, and comes later: all others must name it, in time; it learns of it too. Then a new
/// communicator works in the same processes.
void stay_away(const allfold::Environment& environment, RankGpu& gpu, Algorithm algorithm, std::size_t count) {
  constexpr auto patience = 500ms;
  allfold_test::DeviceField<int> word(1);
  allfold_test::GpuChecks<float, allfold::Sum> checks(gpu, environment, allfold::sum, count, 20261206);
  Comm comm = Comm::create(environment, allfold_test::gpu_options());
  auto buffer = comm.allocate<float>(count);
  allfold::CallOptions options;
  options.stream = gpu.stream();
  options.algorithm = algorithm;
  comm.all_reduce(buffer, allfold::sum, options);
  gpu.synchronize();
  comm.status();
  gpu.meet();
  if (environment.rank == 1) {
    ::usleep(1200000);
  } else {
    options.timeout = patience;
    const auto begin = allfold::Clock::now();
    try {
      // What is enqueued behind the first ends with it.
      for (int i = 0; i < 4; ++i) comm.all_reduce(buffer, allfold::sum, options);
      gpu.synchronize();
      EXPECT(allfold::Clock::now() - begin < patience + 1s);
      comm.status();
      throw std::runtime_error("the call ended without rank 1, and status() says nothing");
    } catch (const allfold::TimeoutError& error) {
      EXPECT(error.source_rank() == 1);
      allfold_test::expect_contains(error.what(), {"rank 1 did not arrive", "all_reduce", "call 2 of channel 0"});
    }
  }
  // From now on every call says so at once, on the late rank too, and nothing is enqueued.
  const auto again = allfold::Clock::now();
  const std::string later = EXPECT_THROWS_AS(comm.barrier(options), allfold::TimeoutError);
  allfold_test::expect_contains(later, {"ended earlier", "create it again"});
  EXPECT_THROWS_AS(comm.all_reduce(buffer, allfold::sum, options), allfold::TimeoutError);
  EXPECT_THROWS_AS(comm.status(), allfold::TimeoutError);
  EXPECT(allfold::Clock::now() - again < 1s);
  expect_cuda_lives(gpu, word.data());
  gpu.meet();
  Comm second = Comm::create(environment, allfold_test::gpu_options());
  options.timeout.reset();
  checks.check_counts(second, {count}, options);
  gpu.meet();
}

void stay_away_in_each(const allfold::Environment& environment, RankGpu& gpu, std::initializer_list<Algorithm> some,
                       std::size_t count) {
  for (const Algorithm algorithm : some) {
    try {
      stay_away(environment, gpu, algorithm, count);
    } catch (const std::exception& error) {
      throw std::runtime_error(allfold::concat({allfold::name(algorithm), ": ", error.what()}));
    }
  }
}

}  // namespace

TEST_CASE("a rank that stays away is named by all, in every algorithm, and a new communicator works") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    stay_away_in_each(environment, gpu, algorithms, 1000);
  });
  allfold_test::over_gpus({8}, [](const allfold::Environment& environment, RankGpu& gpu) {
    stay_away_in_each(environment, gpu, {Algorithm::hybrid_cube_mesh}, 1000);
  });
}

TEST_CASE("the same with large calls, in rounds") {
  NEEDS_GPU();
  allfold_test::over_gpus({4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    stay_away_in_each(
        environment, gpu,
        {Algorithm::one_shot_packet, Algorithm::two_shot_packet, Algorithm::two_shot_push, Algorithm::none}, 5000000);
  });
}

TEST_CASE("a rank that stops within a call, after many rounds, is named by all") {
  NEEDS_GPU();
  allfold_test::over_gpus({3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t count = std::size_t{3} << 20;
    constexpr int late = 2;
    allfold::Options few = allfold_test::gpu_options();
    few.blocks = 2;
    Comm comm = Comm::create(environment, few);
    auto buffer = comm.allocate<float>(count);
    EXPECT_CUDA(cudaMemsetAsync(buffer.data(), 0, count * sizeof(float), gpu.stream()));
    // In the shard of that rank, which it alone folds, far into the part of its first block.
    const std::size_t shard = count / static_cast<std::size_t>(environment.world_size);
    const float marker = StallingSum::marker;
    if (environment.rank == environment.world_size - 1) {
      gpu.copy(buffer.data() + late * shard + shard * 3 / 10, &marker, sizeof marker);
    }
    gpu.meet();
    comm.all_reduce(buffer, StallingSum{},
                    {.stream = gpu.stream(), .timeout = 500ms, .algorithm = Algorithm::two_shot_push});
    gpu.synchronize();
    try {
      comm.status();
      throw std::runtime_error("a call that took too long ended well");
    } catch (const allfold::TimeoutError& error) {
      EXPECT(error.source_rank() == late);
    }
    gpu.meet();
  });
}

TEST_CASE("lanes without work come to the end of a call in packets that fails") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    allfold_test::DeviceField<double> field(1600);  // two rounds, in which not all lanes of a warp have packets
    allfold::Options one = allfold_test::gpu_options();
    one.blocks = 1;
    Comm comm = Comm::create(environment, one);
    gpu.meet();
    if (environment.rank == 0) {
      const auto begin = allfold::Clock::now();
      comm.all_reduce(field.span(), allfold::sum,
                      {.stream = gpu.stream(), .timeout = 400ms, .algorithm = Algorithm::one_shot_packet});
      gpu.synchronize();
      EXPECT(allfold::Clock::now() - begin < 2s);
      allfold_test::expect_contains(EXPECT_THROWS_AS(comm.status(), allfold::TimeoutError), {"rank 1 did not arrive"});
    }
    gpu.meet();
  });
}

TEST_CASE("a call on a default stream is refused where another device is current") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    int devices = 0;
    int mine = -1;
    EXPECT_CUDA(cudaGetDeviceCount(&devices));
    EXPECT_CUDA(cudaGetDevice(&mine));
    allfold_test::DeviceField<float> field(100);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    if (devices > 1) {
      EXPECT_CUDA(cudaSetDevice((mine + 1) % devices));
      for (const cudaStream_t stream : {cudaStream_t{}, cudaStreamLegacy, cudaStreamPerThread}) {
        const auto call = [&] { comm.all_reduce(field.span(), allfold::sum, {.stream = stream}); };
        allfold_test::expect_contains(
            EXPECT_THROWS_AS(call(), allfold::UsageError),
            {"the current device is", allfold::concat({"cudaSetDevice(", mine, ")"}).c_str()});
      }
      EXPECT_CUDA(cudaSetDevice(mine));
    }
    comm.all_reduce(field.span(), allfold::sum, {.stream = gpu.stream()});
    gpu.synchronize();
    comm.status();
    gpu.meet();
  });
}

TEST_CASE("a graph that is replayed on an ended communicator ends at once") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    allfold_test::DeviceField<int> word(1);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    auto buffer = comm.allocate<float>(1000);
    allfold::CallOptions options;
    options.stream = gpu.stream();
    options.timeout = 400ms;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    EXPECT_CUDA(cudaStreamBeginCapture(gpu.stream(), cudaStreamCaptureModeThreadLocal));
    for (const Algorithm algorithm : algorithms) {
      options.algorithm = algorithm;
      comm.all_reduce(buffer, allfold::sum, options);
    }
    EXPECT_CUDA(cudaStreamEndCapture(gpu.stream(), &graph));
    EXPECT_CUDA(cudaGraphInstantiate(&ready, graph, 0));
    EXPECT_CUDA(cudaGraphUpload(ready, gpu.stream()));
    gpu.synchronize();
    gpu.meet();
    EXPECT_CUDA(cudaGraphLaunch(ready, gpu.stream()));
    gpu.synchronize();
    comm.status();
    gpu.meet();
    if (environment.rank == 1) ::usleep(1500000);
    const auto begin = allfold::Clock::now();
    for (int i = 0; i < 20; ++i) EXPECT_CUDA(cudaGraphLaunch(ready, gpu.stream()));
    gpu.synchronize();
    EXPECT(allfold::Clock::now() - begin < 400ms + 1s);
    EXPECT_THROWS_AS(comm.status(), allfold::TimeoutError);
    expect_cuda_lives(gpu, word.data());
    gpu.meet();
    EXPECT_CUDA(cudaGraphExecDestroy(ready));
    EXPECT_CUDA(cudaGraphDestroy(graph));
  });
}

namespace {

constexpr auto call_timeout = 2s;
// Words of HostMeeting.
constexpr std::size_t noticed = 0;      // how many survivors have noticed
constexpr std::size_t second_port = 1;  // where the survivors' store is served
constexpr std::size_t left = 2;         // how many survivors are done

/// What the ranks of one run agree on.
struct Plan {
  std::uint64_t seed;
  int world_size;
  int victim;
  int after_calls;         ///< how many calls the victim makes before its clock starts
  std::uint64_t after_us;  ///< and how long it lives then
  bool symmetric;
};

/// Kills this process after a while, from a thread of its own, so that it dies wherever it and its kernels then are.
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

void random_call(Comm& comm, std::span<float> buffer, Random& random, cudaStream_t stream) {
  allfold::CallOptions options;
  options.stream = stream;
  if (random.chance(15)) return comm.barrier(options);
  options.algorithm = algorithms.begin()[random.below(algorithms.size())];
  comm.all_reduce(buffer.first(std::size_t{1} << random.below(20)), allfold::sum, options);
}

/// Makes calls, a few at a time, until one fails; checks what it says.
void run_until_fault(Comm& comm, std::span<float> buffer, const Plan& plan, RankGpu& gpu) {
  Random random(plan.seed);
  allfold::Clock::time_point begin;
  int blamed = -1;
  std::string message;
  try {
    for (int calls = 0;; ++calls) {
      if (comm.rank() == plan.victim && calls == plan.after_calls) start_clock_of_death(plan.after_us);
      if (calls % 4 == 0) begin = allfold::Clock::now();
      random_call(comm, buffer, random, gpu.stream());
      if (calls % 4 != 3) continue;
      gpu.synchronize();
      comm.status();
    }
  } catch (const allfold::PeerError& error) {
    blamed = error.source_rank();
    message = error.what();
  } catch (const allfold::TimeoutError& error) {
    blamed = error.source_rank();
    message = error.what();
  }
  gpu.synchronize();
  const allfold::Duration took = allfold::Clock::now() - begin;
  // Survivors end together, so that the death that each notices is the victim's and no other's.
  gpu.host().add(noticed);
  gpu.host().wait_until(noticed, static_cast<std::uint64_t>(plan.world_size - 1));
  if (blamed != plan.victim) throw std::runtime_error(allfold::concat({"blames rank ", blamed, ": ", message}));
  allfold_test::expect_contains(message, {allfold::concat({"rank ", plan.victim}).c_str()});
  EXPECT(took < call_timeout + 1s);
}

/// Those that are left count anew, meet at a store of their own, and sum.
void go_on_without(int victim, const allfold::Environment& environment, RankGpu& gpu) {
  constexpr std::size_t count = 100000;
  allfold::Environment mine = environment;
  mine.rank -= environment.rank > victim ? 1 : 0;
  mine.world_size -= 1;
  allfold_test::GpuChecks<float, allfold::Sum> checks(gpu, mine, allfold::sum, count, 20261207);
  const bool serves = mine.rank == 0;
  if (!serves) gpu.host().wait_until(second_port, 1);
  allfold::TcpStoreOptions meeting;
  meeting.port = static_cast<std::uint16_t>(gpu.host().load(second_port));
  meeting.rank = mine.rank;
  meeting.world_size = mine.world_size;
  meeting.serve = serves;
  allfold::TcpStore store(meeting, allfold::Deadline::after(20s));
  if (serves) gpu.host().store(second_port, store.port());
  {
    Comm second = Comm::create(mine, store, allfold_test::gpu_options());
    checks.check_counts(second, {1, 1000, count}, {.stream = gpu.stream()});
  }
  gpu.host().add(left);  // the store goes last
  gpu.host().wait_until(left, static_cast<std::uint64_t>(mine.world_size));
}

void survive(const allfold::Environment& environment, RankGpu& gpu, const Plan& plan) {
  constexpr std::size_t room = std::size_t{1} << 19;
  allfold_test::DeviceField<int> word(1);
  allfold_test::DeviceField<float> field(room);
  allfold::Options options = allfold_test::gpu_options();
  options.timeout = call_timeout;
  Comm comm = Comm::create(environment, options);
  auto buffer = comm.allocate<float>(room);
  run_until_fault(comm, plan.symmetric ? buffer.span() : field.span(), plan, gpu);
  // The communicator stays ended, and says so at once; the GPU goes on.
  const auto again = allfold::Clock::now();
  EXPECT_THROWS_AS(comm.barrier({.stream = gpu.stream()}), allfold::Error);
  EXPECT(allfold::Clock::now() - again < 1s);
  expect_cuda_lives(gpu, word.data());
  if (plan.world_size > 2) go_on_without(plan.victim, environment, gpu);
}

/// Ranks of processes, one of which is killed.
void kill_one(const Plan& plan) {
  CAPTURE(plan.seed);
  CAPTURE(plan.world_size);
  CAPTURE(plan.victim);
  CAPTURE(plan.after_calls);
  CAPTURE(plan.after_us);
  const allfold_test::GpuLayout layout{
      .world_size = plan.world_size, .ranks = allfold::Ranks::processes, .gpus = allfold_test::usable_gpus()};
  allfold_test::HostMeeting meeting(plan.world_size);
  const auto body = [&](const allfold::Environment& environment) {
    allfold_test::detail::prepare_process(layout);
    RankGpu gpu(layout.device_of(environment.rank), &meeting);
    survive(environment, gpu, plan);
  };
  for (const allfold::Outcome& outcome :
       allfold::launch_outcomes(plan.world_size, body, {.timeout = allfold_test::rank_timeout})) {
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

}  // namespace

TEST_CASE(
    "whenever a rank is killed, every other rank gets an error that names it, in time, and may go on with those left") {
  NEEDS_GPU();
  const int gpus = allfold_test::usable_gpus();
  // Two processes on one GPU take turns, which is slow.
  const int runs =
      static_cast<int>(allfold::integer_variable("ALLFOLD_FAULT_RUNS", 1, 1000000).value_or(gpus > 1 ? 20 : 3));
  Random random(allfold_test::test_seed());
  for (int run = 0; run < runs; ++run) {
    Plan plan{};
    plan.seed = random.next();
    plan.world_size = gpus > 1 ? static_cast<int>(random.between(2, static_cast<std::uint64_t>(std::min(gpus, 8)))) : 2;
    plan.victim = static_cast<int>(random.below(static_cast<std::uint64_t>(plan.world_size)));
    plan.after_calls = static_cast<int>(random.below(50));
    plan.after_us = random.chance(20) ? 0 : random.below(20000);
    plan.symmetric = random.chance(50);
    CAPTURE(run);
    kill_one(plan);
  }
}

// Three, also where they have to share GPUs: of two there is nobody left to go on with.
TEST_CASE("of three ranks one is killed, each in turn, and the others go on in a new communicator") {
  NEEDS_GPU();
  Random random(allfold_test::test_seed());
  for (int victim = 0; victim < 3; ++victim) {
    kill_one({.seed = random.next(),
              .world_size = 3,
              .victim = victim,
              .after_calls = 9,
              .after_us = 500,
              .symmetric = victim == 1});
  }
}

namespace {

/// Rank 1 makes another call than the others: every rank must get a MismatchError that shows both sides, long before
/// the deadline, and so again at the next call.
template <class Most, class One>
void check_mismatch(std::initializer_list<const char*> parts, Most&& most, One&& one) {
  allfold_test::over_gpus({2, 3}, [&](const allfold::Environment& environment, RankGpu& gpu) {
    allfold_test::DeviceField<int> word(1);
    allfold_test::DeviceField<float> field(4000001);
    Plain comm = Plain::create(environment, allfold_test::gpu_options());
    const allfold::CallOptions options{.stream = gpu.stream()};
    const auto begin = allfold::Clock::now();
    const auto call = [&] {
      environment.rank == 1 ? one(comm, field.span(), options) : most(comm, field.span(), options);
      gpu.synchronize();
      comm.status();
    };
    const std::string message = EXPECT_THROWS_AS(call(), allfold::MismatchError);
    EXPECT(allfold::Clock::now() - begin < 10s);
    allfold_test::expect_contains(message, parts);
    allfold_test::expect_contains(EXPECT_THROWS_AS(comm.barrier(options), allfold::Error), parts);
    EXPECT_THROWS_AS(comm.status(), allfold::Error);
    expect_cuda_lives(gpu, word.data());
    gpu.meet();
  });
}

using Options = allfold::CallOptions;
using Field = std::span<float>;

void sum_of_four(Plain& comm, Field x, const Options& options) { comm.all_reduce(x.first(4), allfold::sum, options); }

}  // namespace

TEST_CASE("another count") {
  NEEDS_GPU();
  check_mismatch(
      {"all_reduce of 4 float", "all_reduce of 5 float", "rank 1"}, sum_of_four,
      [](Plain& comm, Field x, const Options& options) { comm.all_reduce(x.first(5), allfold::sum, options); });
}

TEST_CASE("what is enqueued behind a call that fails does not change what is said of it") {
  NEEDS_GPU();
  const auto with_more = [](std::size_t count) {
    return [count](Plain& comm, Field x, const Options& options) {
      comm.all_reduce(x.first(count), allfold::sum, options);
      comm.barrier(options);
      comm.all_reduce(x.first(1000), allfold::sum, options);
    };
  };
  check_mismatch({"call 1 of channel 0", "all_reduce of 4 float", "all_reduce of 5 float", "rank 1"}, with_more(4),
                 with_more(5));
}

TEST_CASE("another count of many") {
  NEEDS_GPU();
  check_mismatch(
      {"all_reduce of 4000000 float", "all_reduce of 4000001 float", "rank 1"},
      [](Plain& comm, Field x, const Options& options) { comm.all_reduce(x.first(4000000), allfold::sum, options); },
      [](Plain& comm, Field x, const Options& options) { comm.all_reduce(x, allfold::sum, options); });
}

TEST_CASE("another type") {
  NEEDS_GPU();
  check_mismatch({"4 float", "4 int32", "rank 1"}, sum_of_four, [](Plain& comm, Field x, const Options& options) {
    comm.all_reduce(std::span(reinterpret_cast<std::int32_t*>(x.data()), 4), allfold::sum, options);
  });
}

TEST_CASE("another operator, in packets") {
  NEEDS_GPU();
  const auto in_packets = [](const Options& options) {
    Options changed = options;
    changed.algorithm = Algorithm::one_shot_packet;
    return changed;
  };
  check_mismatch(
      {"sum", "max", "rank 1"},
      [&](Plain& comm, Field x, const Options& options) {
        comm.all_reduce(x.first(4), allfold::sum, in_packets(options));
      },
      [&](Plain& comm, Field x, const Options& options) {
        comm.all_reduce(x.first(4), allfold::max, in_packets(options));
      });
}

TEST_CASE("another algorithm") {
  NEEDS_GPU();
  check_mismatch(
      {"one_shot", "one_shot_packet", "rank 1"}, sum_of_four, [](Plain& comm, Field x, const Options& options) {
        comm.all_reduce(x.first(4), allfold::sum, {.stream = options.stream, .algorithm = Algorithm::one_shot_packet});
      });
}

// Long enough that the others send packets of another kind than rank 1 looks for.
TEST_CASE("symmetric memory on one side") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t count = std::size_t{1} << 18;
    allfold_test::DeviceField<int> word(1);
    allfold_test::DeviceField<float> field(count);
    for (const Algorithm algorithm : {Algorithm::one_shot_packet, Algorithm::two_shot_packet}) {
      static_assert(count * sizeof(float) >= allfold_test::surely_wide_bytes(Algorithm::one_shot_packet, 2));
      Comm comm = Comm::create(environment, allfold_test::gpu_options());
      const auto buffer = comm.allocate<float>(count);
      const auto begin = allfold::Clock::now();
      const auto call = [&] {
        comm.all_reduce(environment.rank == 1 ? field.span() : buffer.span(), allfold::sum,
                        {.stream = gpu.stream(), .algorithm = algorithm});
        gpu.synchronize();
        comm.status();
      };
      const std::string message = EXPECT_THROWS_AS(call(), allfold::MismatchError);
      EXPECT(allfold::Clock::now() - begin < 10s);
      allfold_test::expect_contains(message, {"private memory", "symmetric allocation", "rank 1"});
      expect_cuda_lives(gpu, word.data());
      gpu.meet();
    }
  });
}

TEST_CASE("another operation") {
  NEEDS_GPU();
  check_mismatch({"all_reduce of 4 float", "barrier", "rank 1"}, sum_of_four,
                 [](Plain& comm, Field, const Options& options) { comm.barrier(options); });
}

TEST_CASE("a communicator may be destroyed while its calls are under way") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t count = 300000;
    allfold_test::DeviceField<float> in(count);
    allfold_test::DeviceField<float> out(count);
    const std::vector<float> ones(count, 1);
    std::vector<float> sums(count);
    gpu.copy(in.data(), ones.data(), count * sizeof(float));
    for (int round = 0; round < 5; ++round) {
      std::optional<Plain> comm(Plain::create(environment, allfold_test::gpu_options()));
      // One rank is late, so that the others' kernels wait while their communicators go.
      if (environment.rank == round % environment.world_size) ::usleep(100000);
      for (int i = 0; i < 10; ++i) {
        comm->all_reduce(in.span(), out.span(), allfold::sum, {.stream = gpu.stream()});
      }
      comm.reset();
      gpu.copy(sums.data(), out.data(), count * sizeof(float));
      EXPECT(sums == std::vector<float>(count, static_cast<float>(environment.world_size)));
      EXPECT_CUDA(cudaGetLastError());
    }
  });
}

// The host can say nothing, for the call was enqueued in time: its kernel learns that the communicator has ended, and
// tells so where all ranks of the process look. Ranks that shared a GPU would wait for each other's streams.
TEST_CASE("a rank that is a thread may go before another's kernel has begun") {
  NEEDS_GPU();
  if (allfold_test::usable_gpus() < 2) SKIP_CASE("there is one GPU, and this case wants one per rank");
  allfold_test::over_gpu_threads({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t gone = 0;  // word of the host: rank 0 has destroyed its communicator
    allfold_test::DeviceField<int> word(1);
    allfold_test::DeviceField<float> field(100);
    {
      Plain comm = Plain::create(environment, allfold_test::gpu_options());
      if (environment.rank == 1) {
        const auto until_gone = [](void* host) { static_cast<allfold_test::HostMeeting*>(host)->wait_until(gone, 1); };
        EXPECT_CUDA(cudaLaunchHostFunc(gpu.stream(), until_gone, &gpu.host()));
      }
      gpu.meet();
      comm.all_reduce(field.span(), allfold::sum, {.stream = gpu.stream(), .timeout = 300ms});
      gpu.synchronize();
      allfold_test::expect_contains(EXPECT_THROWS_AS(comm.status(), allfold::TimeoutError), {"all_reduce"});
    }
    gpu.host().store(gone, 1);
    expect_cuda_lives(gpu, word.data());
    gpu.meet();
  });
}

TEST_CASE("a failed communicator may be destroyed, with its buffers and without") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    allfold_test::DeviceField<int> word(1);
    {
      Plain comm = Plain::create(environment, allfold_test::gpu_options());
      auto buffer = comm.allocate<float>(100);
      try {
        comm.all_reduce(buffer.span().first(environment.rank == 0 ? 10 : 11), allfold::sum, {.stream = gpu.stream()});
      } catch (const allfold::MismatchError&) {
      }
      gpu.synchronize();
    }
    expect_cuda_lives(gpu, word.data());
  });
}
