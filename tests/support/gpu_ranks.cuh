// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include <cuda_runtime.h>
#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <allfold/base/variables.hpp>
#include <allfold/policy/options.hpp>
#include <allfold/spawn/bootstrap.hpp>

#include <support/ranks.hpp>
#include <support/skip.hpp>

/// Runs a function on ranks that have GPUs: one each where there are enough; else, and only as threads of one process,
/// several on one (ALLFOLD_SHARE_DEVICE). The test program itself never touches CUDA, whose state no fork survives:
/// ranks that are threads live in a child process too, which also ends them if they hang.
///
/// ALLFOLD_TEST_GPUS=one   as if there were one GPU (suite cuda)
/// ALLFOLD_TEST_GPUS=many  one GPU per rank, and a skip where there are not two (suite multi_gpu)
/// ALLFOLD_TEST_TIMEOUT_S  how long a collective may wait for its peers
/// ALLFOLD_TEST_EXTERNAL=n this process is one rank (allfold::environment()), on a machine of n GPUs: for tools that
///                         watch one process (tests/cuda/sanitize.py)

/// For CUDA's calls, in a rank: a status other than success is a failure.
#define EXPECT_CUDA(...) ::allfold_test::expect_cuda((__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)

/// At the top of a TEST_CASE.
#define NEEDS_GPU()                                                             \
  do {                                                                          \
    if (const char* const why = ::allfold_test::why_no_gpu()) SKIP_CASE((why)); \
  } while (false)

namespace allfold_test {

ALLFOLD_COLD inline void expect_cuda(cudaError_t status, const char* expression, const char* file, int line) {
  if (status == cudaSuccess) return;
  throw_failure(allfold::concat({expression, ": ", cudaGetErrorName(status), ": ", cudaGetErrorString(status)}), file,
                line);
}

/// How many GPUs CUDA sees, asked in a child process.
ALLFOLD_COLD inline int count_gpus() {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    int count = 0;
    ::_exit(cudaGetDeviceCount(&count) == cudaSuccess ? count : 0);
  }
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 0;
  return WEXITSTATUS(status);
}

/// Set if this process is one rank that something else has started: the number of GPUs of its machine.
ALLFOLD_COLD inline std::optional<long long> external_gpus() {
  return allfold::integer_variable("ALLFOLD_TEST_EXTERNAL", 1, 1000);
}

inline std::optional<std::size_t> wanted_gpus() {
  return allfold::choice_variable("ALLFOLD_TEST_GPUS", {"one", "many"});
}

/// How many GPUs the tests use.
ALLFOLD_COLD inline int usable_gpus() {
  static const int count = external_gpus() ? static_cast<int>(*external_gpus()) : count_gpus();
  return wanted_gpus() == std::size_t{0} ? std::min(count, 1) : count;
}

/// Why the GPU tests cannot run here, or null.
inline const char* why_no_gpu() {
  if (usable_gpus() == 0) return "there is no GPU that CUDA can use";
  if (usable_gpus() == 1 && wanted_gpus() == std::size_t{1})
    return "there is one GPU, and this suite wants one per rank";
  return nullptr;
}

/// What the ranks of one run share on the host, threads and processes alike: a meeting point, and some words.
class HostMeeting {
 public:
  explicit HostMeeting(int world_size)
      : words_(static_cast<Words*>(
            ::mmap(nullptr, sizeof(Words), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))),
        world_size_(static_cast<std::uint64_t>(world_size)) {
    if (static_cast<void*>(words_) == MAP_FAILED) throw_failure("mmap failed", __FILE__, __LINE__);
  }
  ~HostMeeting() { ::munmap(words_, sizeof(Words)); }
  HostMeeting(const HostMeeting&) = delete;
  HostMeeting& operator=(const HostMeeting&) = delete;

  /// Waits until all ranks have called it as often; fails if one of them has failed.
  void meet() {
    const std::uint64_t ticket = __atomic_fetch_add(&words_->arrivals, 1, __ATOMIC_ACQ_REL);
    wait_for(words_->arrivals, (ticket / world_size_ + 1) * world_size_);
  }
  /// A word that starts at zero.
  void add(std::size_t index) { __atomic_fetch_add(&words_->word[index], 1, __ATOMIC_ACQ_REL); }
  void store(std::size_t index, std::uint64_t value) {
    __atomic_store_n(&words_->word[index], value, __ATOMIC_RELEASE);
  }
  std::uint64_t load(std::size_t index) const { return __atomic_load_n(&words_->word[index], __ATOMIC_ACQUIRE); }
  /// Waits until a word is as large.
  void wait_until(std::size_t index, std::uint64_t value) { wait_for(words_->word[index], value); }
  /// Lets the others' waits fail.
  void give_up() { __atomic_store_n(&words_->failed, 1, __ATOMIC_RELEASE); }

 private:
  struct Words {
    std::uint64_t arrivals;
    std::uint64_t failed;
    std::uint64_t word[8];
  };

  void wait_for(const std::uint64_t& word, std::uint64_t value) const {
    const auto deadline = allfold::Deadline::after(std::chrono::seconds(90));
    while (__atomic_load_n(&word, __ATOMIC_ACQUIRE) < value) {
      if (__atomic_load_n(&words_->failed, __ATOMIC_ACQUIRE) != 0) throw std::runtime_error("another rank has failed");
      if (deadline.expired()) throw std::runtime_error("another rank did not come to the meeting on the host");
      ::usleep(20);
    }
  }

  Words* words_;
  std::uint64_t world_size_;
};

namespace detail {

/// A template: each program that includes this has it once.
template <class = void>
__global__ void increment_kernel(int* word) {
  ++*word;
}

/// Copies and a kernel on a stream that has had no work yet. A stream's first work does not begin while another
/// stream's kernel waits and has more behind it: on a GPU that ranks share, each would wait for the other
/// (docs/decisions/0008-gpu-protocol.md).
inline void begin_stream(cudaStream_t stream) {
  int word = 41;
  int* on_gpu = nullptr;
  EXPECT_CUDA(cudaMalloc(reinterpret_cast<void**>(&on_gpu), sizeof word));
  EXPECT_CUDA(cudaMemcpyAsync(on_gpu, &word, sizeof word, cudaMemcpyHostToDevice, stream));
  increment_kernel<><<<1, 1, 0, stream>>>(on_gpu);
  EXPECT_CUDA(cudaGetLastError());
  EXPECT_CUDA(cudaMemcpyAsync(&word, on_gpu, sizeof word, cudaMemcpyDeviceToHost, stream));
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT_CUDA(cudaFree(on_gpu));
  EXPECT(word == 42);
}

}  // namespace detail

/// One rank's GPU, which is its thread's current device, with streams that wait for no other.
class RankGpu {
 public:
  static constexpr int stream_count = 3;

  RankGpu(int device, HostMeeting* meeting) : meeting_(meeting), device_(device) {
    EXPECT_CUDA(cudaSetDevice(device));
    for (cudaStream_t& stream : streams_) {
      EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
      detail::begin_stream(stream);
    }
  }
  ~RankGpu() {
    for (const cudaStream_t stream : streams_) {
      cudaStreamSynchronize(stream);
      cudaStreamDestroy(stream);
    }
  }
  RankGpu(const RankGpu&) = delete;
  RankGpu& operator=(const RankGpu&) = delete;

  int device() const noexcept { return device_; }
  cudaStream_t stream(int index = 0) const noexcept { return streams_[index]; }
  void synchronize(int index = 0) const { EXPECT_CUDA(cudaStreamSynchronize(streams_[index])); }
  /// A copy between any memory, after what is on stream 0. Waits first: a copy of pageable memory does its own waiting
  /// with the context's lock held, while a peer on the same GPU may have to launch what is waited for.
  void copy(void* to, const void* from, std::size_t bytes) const {
    synchronize();
    EXPECT_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, streams_[0]));
    synchronize();
  }
  bool has_programmatic_launch() const {
    int major = 0;
    EXPECT_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_));
    return major >= 9;
  }

  HostMeeting& host() const {
    if (meeting_ == nullptr) throw std::runtime_error("ranks that were started one by one share nothing on the host");
    return *meeting_;
  }
  /// A meeting of all ranks on the host, whatever their GPUs do. Before a rank does what may wait for its whole GPU
  /// (allocate, free, instantiate a graph), no peer on the same GPU may be waiting for it in a kernel.
  void meet() const { host().meet(); }

 private:
  HostMeeting* meeting_;
  cudaStream_t streams_[stream_count] = {};
  int device_;
};

/// Sets ALLFOLD_HANDLE_TYPE as long as it lives.
struct HandleTypeWish {
  explicit HandleTypeWish(const char* text) { ::setenv("ALLFOLD_HANDLE_TYPE", text, 1); }
  ~HandleTypeWish() { ::unsetenv("ALLFOLD_HANDLE_TYPE"); }
  HandleTypeWish(const HandleTypeWish&) = delete;
  HandleTypeWish& operator=(const HandleTypeWish&) = delete;
};

using GpuRankBody = allfold::FunctionRef<void(const allfold::Environment&, RankGpu&)>;

inline constexpr std::initializer_list<int> gpu_world_sizes = {2, 3, 4, 8};

/// Options with a deadline that ends a hang long before the harness does.
inline allfold::Options gpu_options() {
  allfold::Options options;
  options.timeout = std::chrono::seconds(allfold::integer_variable("ALLFOLD_TEST_TIMEOUT_S", 1, 3600).value_or(20));
  return options;
}

/// How ranks are laid out on GPUs.
struct GpuLayout {
  int world_size;
  allfold::Ranks ranks;
  int gpus;
  bool may_share = true;  ///< where they have to: ALLFOLD_SHARE_DEVICE is set

  bool shares() const noexcept { return world_size > gpus; }
  int device_of(int rank) const noexcept { return rank % gpus; }
  std::string text() const {
    return allfold::concat({world_size, ranks == allfold::Ranks::processes ? " processes" : " threads", " on ",
                            std::min(world_size, gpus), shares() ? " shared GPU(s)" : " GPUs"});
  }
};

namespace detail {

/// What has to be set before CUDA starts in this process.
inline void prepare_process(const GpuLayout& layout) {
  ::unsetenv("ALLFOLD_SHARE_DEVICE");
  if (layout.shares() && layout.may_share) ::setenv("ALLFOLD_SHARE_DEVICE", "1", 1);
  if (layout.ranks != allfold::Ranks::threads) return;
  // A kernel that is loaded at its first launch may wait for the whole context, where a peer's kernel waits for it.
  ::setenv("CUDA_MODULE_LOADING", "EAGER", 1);
  // As many queues to the GPU as there can be streams, so that none waits behind another.
  ::setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1);
}

inline void run_gpu_rank(const GpuLayout& layout, const allfold::Environment& environment, HostMeeting& meeting,
                         GpuRankBody body) {
  try {
    RankGpu gpu(layout.device_of(environment.rank), &meeting);
    body(environment, gpu);
  } catch (...) {
    meeting.give_up();
    throw;
  }
}

inline std::string outcome_text(const allfold::Outcome& outcome) {
  return allfold::concat({outcome.late ? "LATE rank " : "rank ", outcome.rank, ": ", outcome.error});
}

/// What the child process does whose threads are the ranks: throws what they say.
inline void run_gpu_threads(const GpuLayout& layout, HostMeeting& meeting, GpuRankBody body,
                            allfold::Duration timeout) {
  prepare_process(layout);
  const auto rank = [&](const allfold::Environment& environment) { run_gpu_rank(layout, environment, meeting, body); };
  std::string failures;
  for (const allfold::Outcome& outcome :
       allfold::launch_outcomes(layout.world_size, rank, {.ranks = allfold::Ranks::threads, .timeout = timeout})) {
    if (!outcome.ok()) failures += allfold::concat({outcome_text(outcome), "\n  "});
  }
  if (!failures.empty()) throw std::runtime_error(failures);
}

}  // namespace detail

/// Runs `body` on ranks so laid out, and fails the test case with what each bad rank says.
ALLFOLD_COLD inline bool run_on_gpus(const GpuLayout& layout, GpuRankBody body, allfold::Duration timeout,
                                     const allfold::SourceLocation& at) {
  HostMeeting meeting(layout.world_size);
  std::vector<allfold::Outcome> outcomes;
  if (layout.ranks == allfold::Ranks::processes) {
    const auto process = [&](const allfold::Environment& environment) {
      detail::prepare_process(layout);
      detail::run_gpu_rank(layout, environment, meeting, body);
    };
    outcomes = allfold::launch_outcomes(layout.world_size, process, {.timeout = timeout});
  } else {
    const auto process = [&](const allfold::Environment&) { detail::run_gpu_threads(layout, meeting, body, timeout); };
    // Longer than the threads have, which say on stderr who of them is late.
    outcomes = allfold::launch_outcomes(1, process, {.timeout = timeout + std::chrono::seconds(5)});
  }
  bool all_ok = true;
  for (const allfold::Outcome& outcome : outcomes) {
    const std::string text =
        allfold::concat({at.file, ":", at.line, ": ", layout.text(), ": ", detail::outcome_text(outcome)});
    CHECK_MESSAGE(outcome.ok(), text);
    all_ok = all_ok && outcome.ok();
  }
  return all_ok;
}

/// This process is one rank among others that it did not start.
ALLFOLD_COLD inline void run_external(GpuRankBody body) {
  const allfold::Environment environment = allfold::environment();
  std::string error;
  try {
    RankGpu gpu(environment.local_rank % usable_gpus(), nullptr);
    body(environment, gpu);
  } catch (const std::exception& thrown) {
    error = thrown.what();
  }
  CHECK(error == "");
}

/// Runs `body` in one process per rank, for each world size that finds a GPU for each rank; where there is but one GPU,
/// two processes share it, which is slow: they take turns. Stops at the first world size that fails.
ALLFOLD_COLD inline void over_gpu_processes(std::initializer_list<int> world_sizes, GpuRankBody body,
                                            allfold::Duration timeout = rank_timeout,
                                            const allfold::SourceLocation& at = allfold::SourceLocation::current()) {
  if (external_gpus()) return run_external(body);
  const int most = std::max(usable_gpus(), 2);
  bool ran = false;
  for (const int world_size : world_sizes) {
    if (world_size > most) continue;
    ran = true;
    if (!run_on_gpus({world_size, allfold::Ranks::processes, usable_gpus()}, body, timeout, at)) return;
  }
  if (!ran) record_skip("there are too few GPUs for one per rank");
}

/// Runs `body` in one thread per rank, for each world size; ranks share GPUs where they have to.
ALLFOLD_COLD inline void over_gpu_threads(std::initializer_list<int> world_sizes, GpuRankBody body,
                                          allfold::Duration timeout = rank_timeout,
                                          const allfold::SourceLocation& at = allfold::SourceLocation::current()) {
  if (external_gpus()) return run_external(body);
  for (const int world_size : world_sizes) {
    if (!run_on_gpus({world_size, allfold::Ranks::threads, usable_gpus()}, body, timeout, at)) return;
  }
}

/// Both; processes only where each rank has a GPU.
ALLFOLD_COLD inline void over_gpus(std::initializer_list<int> world_sizes, GpuRankBody body,
                                   allfold::Duration timeout = rank_timeout,
                                   const allfold::SourceLocation& at = allfold::SourceLocation::current()) {
  if (external_gpus()) return run_external(body);
  for (const int world_size : world_sizes) {
    if (world_size > usable_gpus()) continue;
    if (!run_on_gpus({world_size, allfold::Ranks::processes, usable_gpus()}, body, timeout, at)) return;
  }
  over_gpu_threads(world_sizes, body, timeout, at);
}

}  // namespace allfold_test
