// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include <cuda_fp8.h>
#include <doctest/doctest.h>

#include <allfold/allfold.cuh>

#include <support/gpu_all_reduce.cuh>
#include <support/random.hpp>

using allfold::Algorithm;
using allfold_test::guard_elems;
using allfold_test::Random;
using allfold_test::RankGpu;

/// A user's types. In a namespace that has a name: nvcc warns of kernels that are instantiated for others.
namespace user {

/// 12 bytes, which divide no packet evenly; joined in rank order alone.
struct Third {
  std::uint32_t a, b, c;

  Third() = default;
  explicit Third(std::uint32_t word) : a(word), b(word * 3), c(word >> 3) {}
};

struct JoinThirds {
  static constexpr std::string_view name = "join_thirds";

  ALLFOLD_HD Third operator()(const Third& x, const Third& y) const {
    Third z;
    z.a = x.a + y.a;
    z.b = x.b * 31 + y.b;
    z.c = x.c ^ y.c;
    return z;
  }
};

}  // namespace user

namespace {

struct RandomSelector {
  using policy_category = allfold::selector_tag;
  static constexpr allfold::AlgorithmSet candidates = allfold::AlgorithmSet::all();
  Algorithm select(const allfold::SelectionQuery& query) const {
    return query.bytes % 3 == 0 ? Algorithm::none : Algorithm::two_shot;
  }
};

using Comm = allfold::Communicator<allfold::NvlinkTransport, RandomSelector>;

constexpr std::size_t most = std::size_t{1} << 20;
constexpr std::size_t room = most + 2 * guard_elems + 64;
constexpr std::size_t vector_elems = 16;  // of one byte or more
static_assert(guard_elems % vector_elems == 0);
constexpr Algorithm packet_algorithms[] = {Algorithm::one_shot_packet, Algorithm::two_shot_packet};
constexpr int channels = 2;
constexpr int slots = 3;
constexpr std::size_t stop_word = 0;  // of HostMeeting: rank 0 says that time is up

/// Private memory for one call at a time, symmetric memory too once there is a communicator, and the call itself.
template <class T>
struct Slot {
  explicit Slot(allfold_test::Answers<T>& answers) : a(room), b(room), call(answers, most) {}

  allfold_test::DeviceField<T> a, b;
  allfold_test::CheckedCall<T> call;
  bool under_way = false;
};

template <class T>
struct SymmetricPair {
  explicit SymmetricPair(Comm& comm) : a(comm.allocate<T>(room)), b(comm.allocate<T>(room)) {}

  Comm::buffer_type<T> a, b;
};

/// One type with one operator: some calls under way at once, each with memory of its own.
template <class T, class Op>
class Calls {
 public:
  Calls(const allfold::Environment& environment, const Op& op, std::uint64_t seed)
      : op_(op), answers_(op, environment.rank, environment.world_size, most, seed) {
    for (auto& slot : slots_) slot = std::make_unique<Slot<T>>(answers_);
  }

  void allocate(Comm& comm) {
    for (auto& pair : symmetric_) pair = std::make_unique<SymmetricPair<T>>(comm);
  }

  /// Ends what a slot was doing, then enqueues one all-reduce. All ranks draw the same numbers.
  void step(Comm& comm, Random& random, const allfold::CallOptions& given) {
    const auto index = random.below(slots);
    Slot<T>& slot = *slots_[index];
    SymmetricPair<T>& symmetric = *symmetric_[index];
    finish(comm, slot);
    // Whole vectors in symmetric memory, the longer ones of which go in wide packets; else anything.
    const bool vectors = random.chance(30);
    const std::size_t grain = vectors ? vector_elems : 1;
    const std::size_t limit = vectors ? most : std::size_t{1} << random.below(21);
    const std::size_t drawn = random.chance(10) ? random.below(3) : random.below(limit + 1);
    const std::size_t count = drawn / grain * grain;
    const std::span<T> in = vectors || random.chance(50) ? symmetric.a.span() : slot.a.span();
    const std::span<T> out = vectors || random.chance(50) ? symmetric.b.span() : slot.b.span();
    const bool in_place = random.chance(40);
    const std::size_t in_at = guard_elems + random.below(40) / grain * grain;
    const std::size_t out_at = in_place ? in_at : guard_elems + random.below(40) / grain * grain;
    allfold::CallOptions options = given;
    if (random.chance(80)) options.algorithm = random.pick(allfold::all_algorithms);
    if (vectors && random.chance(60)) options.algorithm = random.pick(packet_algorithms);
    const allfold_test::Fields<T> fields{in, in_place ? in : out, in_at, out_at};
    try {
      slot.call.begin(comm, op_, fields, count, options);
    } catch (const allfold::UsageError&) {
      // This algorithm cannot run this call: said by all ranks alike, before they meet.
      EXPECT(options.algorithm && *options.algorithm != Algorithm::none);
      options.algorithm.reset();
      slot.call.begin(comm, op_, fields, count, options);
    }
    slot.under_way = true;
  }

  void finish_all(Comm& comm) {
    for (auto& slot : slots_) finish(comm, *slot);
  }
  void release() {
    for (auto& pair : symmetric_) pair.reset();
  }

 private:
  static void finish(Comm& comm, Slot<T>& slot) {
    if (slot.under_way) slot.call.end(comm);
    slot.under_way = false;
  }

  Op op_;
  allfold_test::Answers<T> answers_;
  std::array<std::unique_ptr<Slot<T>>, slots> slots_;
  std::array<std::unique_ptr<SymmetricPair<T>>, slots> symmetric_;
};

/// Which stream each channel is on. A channel is one sequence: where it moves to another stream, that one waits.
class ChannelStreams {
 public:
  explicit ChannelStreams(RankGpu& gpu) : gpu_(gpu) {
    EXPECT_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
  }
  ~ChannelStreams() { cudaEventDestroy(event_); }
  ChannelStreams(const ChannelStreams&) = delete;
  ChannelStreams& operator=(const ChannelStreams&) = delete;

  allfold::CallOptions pick(Random& random) {
    const auto channel = static_cast<int>(random.below(channels));
    const auto next = static_cast<int>(random.chance(15) ? random.below(RankGpu::stream_count)
                                                         : static_cast<std::uint64_t>(stream_of_[channel]));
    if (next != stream_of_[channel]) {
      EXPECT_CUDA(cudaEventRecord(event_, gpu_.stream(stream_of_[channel])));
      EXPECT_CUDA(cudaStreamWaitEvent(gpu_.stream(next), event_, 0));
      stream_of_[channel] = next;
    }
    allfold::CallOptions options;
    options.stream = gpu_.stream(next);
    options.channel = channel;
    return options;
  }

 private:
  RankGpu& gpu_;
  cudaEvent_t event_ = nullptr;
  int stream_of_[channels] = {0, 1};
};

void random_schedule(const allfold::Environment& environment, RankGpu& gpu, std::uint64_t seed,
                     std::chrono::milliseconds time) {
  constexpr int steps_a_round = 40;
  Random random(seed);
  Calls<allfold::bfloat16, allfold::Sum> halves(environment, allfold::sum, seed);
  Calls<user::Third, user::JoinThirds> thirds(environment, user::JoinThirds{}, seed);
  Calls<__nv_fp8_e4m3, allfold::Sum> bytes(environment, allfold::sum, seed);
  ChannelStreams streams(gpu);
  const auto begin = allfold::Clock::now();
  for (bool going = true; going;) {
    gpu.meet();
    allfold::Options options = allfold_test::gpu_options();
    options.channels = channels;
    options.buffer_bytes = std::size_t{16384} << random.below(10);
    options.blocks = random.chance(50) ? 0 : static_cast<int>(random.between(1, 40));
    Comm comm = Comm::create(environment, options);
    halves.allocate(comm);
    thirds.allocate(comm);
    bytes.allocate(comm);
    for (int round = 0; round < 50 && going; ++round) {
      for (int step = 0; step < steps_a_round; ++step) {
        const allfold::CallOptions call = streams.pick(random);
        switch (random.below(8)) {
          case 0: comm.barrier(call); break;
          case 1:
          case 2: thirds.step(comm, random, call); break;
          case 3:
          case 4: bytes.step(comm, random, call); break;
          default: halves.step(comm, random, call); break;
        }
      }
      if (environment.rank == 0 && allfold::Clock::now() - begin > time) gpu.host().store(stop_word, 1);
      gpu.meet();
      going = gpu.host().load(stop_word) == 0;
    }
    halves.finish_all(comm);
    thirds.finish_all(comm);
    bytes.finish_all(comm);
    for (int s = 0; s < RankGpu::stream_count; ++s) gpu.synchronize(s);
    comm.status();
    gpu.meet();  // before anything is freed
    halves.release();
    thirds.release();
    bytes.release();
  }
}

}  // namespace

// ALLFOLD_TEST_SECONDS: for all world sizes and kinds of ranks together. scripts/test --gpu makes them ten minutes.
TEST_CASE("random all-reduces, on channels and streams at once") {
  NEEDS_GPU();
  const std::uint64_t seed = allfold_test::test_seed();
  const std::chrono::milliseconds seconds =
      std::chrono::seconds(allfold::integer_variable("ALLFOLD_TEST_SECONDS", 1, 1000000).value_or(10));
  const std::initializer_list<int> world_sizes = {2, 3, 4, 5, 8};
  int runs = 0;  // of threads, and where each rank has a GPU of processes too
  for (const int world_size : world_sizes) runs += world_size <= allfold_test::usable_gpus() ? 2 : 1;
  const std::chrono::milliseconds time = seconds / runs;
  for (const int world_size : world_sizes) {
    const auto body = [&](const allfold::Environment& environment, RankGpu& gpu) {
      random_schedule(environment, gpu, seed + static_cast<unsigned>(world_size), time);
    };
    allfold_test::over_gpus({world_size}, body, allfold_test::rank_timeout + 2 * seconds);
  }
}
