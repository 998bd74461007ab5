// SPDX-License-Identifier: Apache-2.0
// Streams and graphs: what is enqueued is checked by kernels on the same streams, thousands of times, with no wait on
// the host between.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <future>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include <cuda_runtime.h>
#include <doctest/doctest.h>

#include <allfold/allfold.cuh>

#include <support/gpu_all_reduce.cuh>

using allfold::Algorithm;
using allfold_test::RankGpu;

namespace {

using Comm = allfold::Communicator<
    allfold::NvlinkTransport,
    allfold_test::SomeSelector<Algorithm::two_shot, Algorithm::one_shot, Algorithm::one_shot_packet,
                               Algorithm::two_shot_packet, Algorithm::one_shot_push, Algorithm::two_shot_push>>;

constexpr std::initializer_list<Algorithm> algorithms = {
    Algorithm::one_shot,      Algorithm::one_shot_packet, Algorithm::two_shot, Algorithm::two_shot_packet,
    Algorithm::one_shot_push, Algorithm::two_shot_push,   Algorithm::none};
constexpr std::size_t in_wide_packets = allfold_test::surely_wide_bytes(Algorithm::one_shot_packet, 2) / sizeof(float);
constexpr std::initializer_list<std::size_t> counts = {1000, 70001, in_wide_packets};
/// Several chunks for each block of two_shot_push on four ranks, and results that go in runs.
constexpr std::size_t long_count = std::size_t{10} << 20;
constexpr int user_blocks = 8;
constexpr int user_threads = 256;

/// What a rank's kernels have found, in its GPU's memory.
struct Findings {
  unsigned wrong;  ///< elements
  unsigned step;   ///< of the first
  unsigned index;
  float value;
};

/// Whether a kernel starts early, by programmatic dependent launch, and lets the next one start early.
enum class Start { after_all, early };

template <Start start>
__device__ void begin_kernel() {
#if __CUDA_ARCH__ >= 900
  if constexpr (start == Start::early) {
    cudaTriggerProgrammaticLaunchCompletion();
    cudaGridDependencySynchronize();
  }
#endif
}

/// What all ranks' inputs have in common: a small whole number, so that sums are exact.
__device__ unsigned pattern(unsigned step, unsigned salt, std::size_t i) {
  return (static_cast<unsigned>(i) * 2654435761U ^ (step * 4 + salt) * 2246822519U) >> 21;
}

/// Takes so long that a peer, or a kernel that should have waited, is well ahead.
__device__ void nap(unsigned step, unsigned who) {
  const unsigned cycles = ((step * 7 + who * 13) % 5) * 4000;
  const long long begin = clock64();
  while (clock64() - begin < cycles) {
  }
}

__global__ void next_step(unsigned* step) { ++*step; }

/// Writes this rank's input of the step.
template <Start start>
__global__ void produce(float* out, std::size_t count, unsigned rank, const unsigned* step, unsigned salt) {
  begin_kernel<start>();
  nap(*step, rank + blockIdx.x);
  for (std::size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    out[i] = static_cast<float>(pattern(*step, salt, i) + rank);
  }
}

/// Checks the sum of what the ranks produced, times `factor`.
template <Start start>
__global__ void consume(const float* in, std::size_t count, unsigned world_size, float factor, const unsigned* step,
                        unsigned salt, unsigned rank, Findings* findings) {
  begin_kernel<start>();
  nap(*step, rank + blockIdx.x);
  for (std::size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    const unsigned want = world_size * pattern(*step, salt, i) + world_size * (world_size - 1) / 2;
    const float got = in[i];
    if (got == factor * static_cast<float>(want)) continue;
    if (atomicAdd(&findings->wrong, 1U) == 0) {
      findings->step = *step;
      findings->index = static_cast<unsigned>(i);
      findings->value = got;
    }
  }
}

/// Launches a kernel of the user's, `start` as said.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), Start start, cudaStream_t stream, Arguments... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(user_blocks);
  config.blockDim = dim3(user_threads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = start == Start::early ? 1 : 0;
  EXPECT_CUDA(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

/// A graph of what `body` enqueues on the stream, uploaded and ready. Every rank makes its own, then all meet.
class Graph {
 public:
  Graph(RankGpu& gpu, allfold::FunctionRef<void()> body,
        cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal) {
    cudaGraph_t graph = nullptr;
    EXPECT_CUDA(cudaStreamBeginCapture(gpu.stream(), mode));
    body();
    EXPECT_CUDA(cudaStreamEndCapture(gpu.stream(), &graph));
    std::size_t nodes = 0;
    EXPECT_CUDA(cudaGraphGetNodes(graph, nullptr, &nodes));
    std::vector<cudaGraphNode_t> all(nodes);
    EXPECT_CUDA(cudaGraphGetNodes(graph, all.data(), &nodes));
    for (const cudaGraphNode_t node : all) {
      cudaGraphNodeType type{};
      EXPECT_CUDA(cudaGraphNodeGetType(node, &type));
      (type == cudaGraphNodeTypeKernel ? kernels_ : others_) += 1;
    }
    early_ = programmatic_edges(graph);
    EXPECT_CUDA(cudaGraphInstantiate(&ready_, graph, 0));
    EXPECT_CUDA(cudaGraphDestroy(graph));
    EXPECT_CUDA(cudaGraphUpload(ready_, gpu.stream()));
    gpu.synchronize();
    gpu.meet();
  }
  ~Graph() { cudaGraphExecDestroy(ready_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch(cudaStream_t stream) const { EXPECT_CUDA(cudaGraphLaunch(ready_, stream)); }
  int kernels() const noexcept { return kernels_; }
  int others() const noexcept { return others_; }
  /// How many kernels need not wait for the end of the one before them.
  int early() const noexcept { return early_; }

 private:
  static int programmatic_edges(cudaGraph_t graph) {
    std::size_t edges = 0;
#if CUDART_VERSION >= 13000
    EXPECT_CUDA(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges));
#else
    EXPECT_CUDA(cudaGraphGetEdges_v2(graph, nullptr, nullptr, nullptr, &edges));
#endif
    std::vector<cudaGraphNode_t> from(edges);
    std::vector<cudaGraphNode_t> to(edges);
    std::vector<cudaGraphEdgeData> data(edges);
#if CUDART_VERSION >= 13000
    EXPECT_CUDA(cudaGraphGetEdges(graph, from.data(), to.data(), data.data(), &edges));
#else
    EXPECT_CUDA(cudaGraphGetEdges_v2(graph, from.data(), to.data(), data.data(), &edges));
#endif
    return static_cast<int>(std::count_if(data.begin(), data.end(), [](const cudaGraphEdgeData& edge) {
      return edge.type == cudaGraphDependencyTypeProgrammatic;
    }));
  }

  cudaGraphExec_t ready_ = nullptr;
  int kernels_ = 0;
  int others_ = 0;
  int early_ = 0;
};

/// A rank's step counter and findings, on its GPU: kernels know which step it is, in a graph too. Every rank makes its
/// own, then all meet: no rank frees the one before, which waits for the whole GPU, while a peer on it waits for that
/// rank.
class Script {
 public:
  Script(RankGpu& gpu, const allfold::Environment& environment)
      : gpu_(gpu),
        rank_(static_cast<unsigned>(environment.rank)),
        world_size_(static_cast<unsigned>(environment.world_size)),
        step_(1),
        findings_(1) {
    EXPECT_CUDA(cudaMemsetAsync(step_.data(), 0, sizeof(unsigned), gpu.stream()));
    EXPECT_CUDA(cudaMemsetAsync(findings_.data(), 0, sizeof(Findings), gpu.stream()));
    gpu.synchronize();
    gpu.meet();
  }

  void next() {
    next_step<<<1, 1, 0, gpu_.stream()>>>(step_.data());
    EXPECT_CUDA(cudaGetLastError());
  }
  void write(std::span<float> x, unsigned salt = 0, Start start = Start::after_all, int stream = 0) {
    launch(start == Start::early ? produce<Start::early> : produce<Start::after_all>, start, gpu_.stream(stream),
           x.data(), x.size(), rank_, step_.data(), salt);
  }
  void read(std::span<float> x, unsigned salt = 0, Start start = Start::after_all, float factor = 1, int stream = 0) {
    launch(start == Start::early ? consume<Start::early> : consume<Start::after_all>, start, gpu_.stream(stream),
           x.data(), x.size(), world_size_, factor, step_.data(), salt, rank_, findings_.data());
  }

  /// Waits for everything, and fails if any element was wrong.
  void expect_right(unsigned steps, const std::string& what) {
    unsigned done = 0;
    Findings findings{};
    EXPECT_CUDA(cudaMemcpyAsync(&done, step_.data(), sizeof done, cudaMemcpyDeviceToHost, gpu_.stream()));
    EXPECT_CUDA(cudaMemcpyAsync(&findings, findings_.data(), sizeof findings, cudaMemcpyDeviceToHost, gpu_.stream()));
    gpu_.synchronize();
    if (findings.wrong != 0) {
      allfold_test::throw_failure(
          allfold::concat({what, ": ", findings.wrong, " elements were wrong; one of step ", findings.step,
                           ", element ", findings.index, ", was ", std::to_string(findings.value)}),
          __FILE__, __LINE__);
    }
    if (done != steps) {
      allfold_test::throw_failure(allfold::concat({what, ": ", done, " steps of ", steps, " were run"}), __FILE__,
                                  __LINE__);
    }
  }

 private:
  RankGpu& gpu_;
  unsigned rank_;
  unsigned world_size_;
  allfold_test::DeviceField<unsigned> step_;
  allfold_test::DeviceField<Findings> findings_;
};

/// Lets no rank enqueue far ahead: where the GPU's queue is full, a launch waits, and may hold up other threads.
void breathe(RankGpu& gpu, unsigned i) {
  if (i % 16 == 15) gpu.synchronize();
}

allfold::CallOptions on(cudaStream_t stream, Algorithm algorithm, int channel = 0) {
  allfold::CallOptions options;
  options.stream = stream;
  options.channel = channel;
  options.algorithm = algorithm;
  return options;
}

/// Runs `step(channel)` on two channels, each on its stream, with which ranks begin in turn; first once alike on all,
/// for to load a kernel may take a wait for those that run.
template <class Step>
void in_opposite_orders(const allfold::Environment& environment, RankGpu& gpu, Step&& step) {
  const auto synchronize = [&] {
    gpu.synchronize(0);
    gpu.synchronize(1);
  };
  step(0);
  step(1);
  synchronize();
  for (int i = 0; i < 200; ++i) {
    const int first = (environment.rank + i / 7) % 2;
    step(first);
    step(1 - first);
    if (i % 16 == 15) synchronize();
  }
  synchronize();
}

/// Captures each algorithm on each kind of memory, and the barrier, with nothing called before.
void expect_one_kernel_each(const allfold::Environment& environment, RankGpu& gpu, cudaStreamCaptureMode mode) {
  allfold_test::DeviceField<float> field(70001);
  Comm comm = Comm::create(environment, allfold_test::gpu_options());
  auto buffer = comm.allocate<float>(70001);
  const auto expect_one_kernel = [&](allfold::FunctionRef<void()> call) {
    const Graph graph(gpu, call, mode);
    EXPECT(graph.kernels() == 1);
    EXPECT(graph.others() == 0);
  };
  for (const Algorithm algorithm : algorithms) {
    for (const std::span<float> x : {field.span(), buffer.span(), buffer.span().subspan(1, 100)}) {
      expect_one_kernel([&] { comm.all_reduce(x, allfold::sum, on(gpu.stream(), algorithm)); });
    }
  }
  expect_one_kernel([&] { comm.barrier({.stream = gpu.stream()}); });
  gpu.meet();
}

}  // namespace

TEST_CASE("a thousand replays, with eager calls between them") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    for (const std::size_t count : counts) {
      allfold_test::DeviceField<float> private_in(count);
      allfold_test::DeviceField<float> private_out(count);
      Comm comm = Comm::create(environment, allfold_test::gpu_options());
      auto symmetric_in = comm.allocate<float>(count);
      auto symmetric_out = comm.allocate<float>(count);
      for (const Algorithm algorithm : algorithms) {
        Script script(gpu, environment);
        const auto step = [&] {
          script.next();
          script.write(symmetric_in.span(), 0);
          comm.all_reduce(symmetric_in, symmetric_out, allfold::sum, on(gpu.stream(), algorithm));
          script.read(symmetric_out.span(), 0);
          script.write(private_in.span(), 1);
          comm.all_reduce(private_in.span(), private_out.span(), allfold::sum, on(gpu.stream(), algorithm));
          script.read(private_out.span(), 1);
          script.write(symmetric_out.span(), 2);  // in place, at once after it was read
          comm.all_reduce(symmetric_out, allfold::sum, on(gpu.stream(), algorithm));
          script.read(symmetric_out.span(), 2);
        };
        const Graph graph(gpu, step);
        constexpr unsigned replays = 1000;
        unsigned steps = 0;
        for (unsigned i = 0; i < replays; ++i, ++steps) {
          graph.launch(gpu.stream());
          breathe(gpu, i);
          if (i % 7 != 0) continue;
          step();
          ++steps;
        }
        script.expect_right(steps, allfold::concat({allfold::name(algorithm), ", count ", count}));
        comm.status();
        gpu.meet();
      }
    }
  });
}

TEST_CASE("a call is one kernel, and nothing else") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    expect_one_kernel_each(environment, gpu, cudaStreamCaptureModeThreadLocal);
  });
}

TEST_CASE("a kernel may be loaded in a capture, in the strictest mode") {
  NEEDS_GPU();
  // Of threads each would break the other's capture: this mode forbids what the next graph needs to the whole process.
  allfold_test::over_gpu_processes({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    expect_one_kernel_each(environment, gpu, cudaStreamCaptureModeGlobal);
  });
}

TEST_CASE("a call may be launched before the one before it has ended, but not where ranks share a GPU") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    const bool never = environment.world_size > allfold_test::usable_gpus() || !gpu.has_programmatic_launch();
    for (const int channels : {1, 2}) {
      allfold::Options options = allfold_test::gpu_options();
      options.channels = channels;
      Comm comm = Comm::create(environment, options);
      auto buffer = comm.allocate<float>(std::size_t{1} << 20);
      for (const Algorithm algorithm : algorithms) {
        const auto early_of = [&](std::span<float> x) {
          const Graph graph(gpu, [&] {
            for (int i = 0; i < 3; ++i) comm.all_reduce(x, allfold::sum, on(gpu.stream(), algorithm));
          });
          EXPECT(graph.early() == 0 || graph.early() == graph.kernels() - 1);
          return graph.early() != 0;
        };
        EXPECT(early_of(buffer.span().first(64)) == !never);
        // With two channels not one whose blocks could keep the other's off the GPU.
        EXPECT(early_of(buffer.span()) == (!never && channels == 1));
      }
      gpu.meet();
    }
  });
}

TEST_CASE("an eager call takes the host little time") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    auto buffer = comm.allocate<float>(1024);
    std::vector<double> times_us;
    for (int round = 0; round < 20; ++round) {
      for (int i = 0; i < 50; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        comm.all_reduce(buffer, allfold::sum, on(gpu.stream(), Algorithm::one_shot_packet));
        const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
        times_us.push_back(took.count());
      }
      gpu.synchronize();
    }
    comm.status();
    std::nth_element(times_us.begin(), times_us.begin() + 500, times_us.end());
    std::printf("rank %d of %d: an eager call takes %.2f us of the host's time (median of 1000)\n", environment.rank,
                environment.world_size, times_us[500]);
    EXPECT(times_us[500] < 40);  // a bound for every machine; the benchmark has the figure
  });
}

TEST_CASE("a call may come from a thread that has called nothing of CUDA before") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    auto buffer = comm.allocate<float>(1000);
    Script script(gpu, environment);
    constexpr unsigned steps = 6;
    for (unsigned i = 0; i < steps; ++i) {
      script.next();
      script.write(buffer.span());
      const auto call = [&] {
        if (gpu.device() != 0) EXPECT_CUDA(cudaSetDevice(gpu.device()));  // what a thread begins with is device 0
        comm.all_reduce(buffer, allfold::sum, on(gpu.stream(), Algorithm::one_shot_packet));
      };
      std::async(i % 2 == 0 ? std::launch::deferred : std::launch::async, call).get();
      script.read(buffer.span());
    }
    script.expect_right(steps, "calls by this thread and new ones in turns");
    gpu.meet();
  });
}

TEST_CASE("long calls, replayed") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    allfold_test::DeviceField<float> private_field(long_count);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    auto in = comm.allocate<float>(long_count);
    auto out = comm.allocate<float>(long_count);
    for (const Algorithm algorithm :
         {Algorithm::two_shot_packet, Algorithm::one_shot_push, Algorithm::two_shot_push, Algorithm::none}) {
      Script script(gpu, environment);
      const Graph graph(gpu, [&] {
        script.next();
        script.write(in.span(), 0);
        comm.all_reduce(in, out, allfold::sum, on(gpu.stream(), algorithm));
        script.read(out.span(), 0);
        script.write(private_field.span(), 1);
        comm.all_reduce(private_field.span(), allfold::sum, on(gpu.stream(), algorithm));
        script.read(private_field.span(), 1);
      });
      for (unsigned i = 0; i < 30; ++i) graph.launch(gpu.stream());
      script.expect_right(30, std::string(allfold::name(algorithm)));
      comm.status();
      gpu.meet();
    }
  });
}

// What is launched early holds part of the GPU while it waits. Ranks that begin with different channels would wait for
// each other, were that part another channel's (docs/decisions/0008-gpu-protocol.md).
TEST_CASE("ranks that enqueue on two channels in opposite orders do not wait for each other") {
  NEEDS_GPU();
  const auto body = [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t count = std::size_t{1} << 20;
    allfold::Options options = allfold_test::gpu_options();
    options.channels = 2;
    Comm comm = Comm::create(environment, options);
    const Comm::buffer_type<float> fields[] = {comm.allocate<float>(count), comm.allocate<float>(count)};
    for (const Algorithm algorithm : {Algorithm::one_shot_packet, Algorithm::two_shot, Algorithm::two_shot_push}) {
      Script script(gpu, environment);
      script.next();
      gpu.synchronize();
      const auto step = [&](int channel) {
        const std::span<float> field = fields[channel].span();
        const auto salt = static_cast<unsigned>(channel);
        script.write(field, salt, Start::after_all, channel);
        comm.all_reduce(field, allfold::sum, on(gpu.stream(channel), algorithm, channel));
        script.read(field, salt, Start::after_all, 1, channel);
      };
      in_opposite_orders(environment, gpu, step);
      script.expect_right(1, std::string(allfold::name(algorithm)));
      comm.status();
      gpu.meet();
    }
  };
  allfold_test::over_gpus({2, 3, 4}, body);
}

// A short call is launched early only behind one that leaves it room in its channel's share.
TEST_CASE("long and short calls back to back, on two channels in opposite orders, do not wait for each other") {
  NEEDS_GPU();
  const auto body = [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t many = std::size_t{1} << 24;
    constexpr std::size_t few = std::size_t{1} << 17;
    allfold::Options options = allfold_test::gpu_options();
    options.channels = 2;
    Comm comm = Comm::create(environment, options);
    const Comm::buffer_type<float> fields[] = {comm.allocate<float>(many), comm.allocate<float>(many)};
    for (const int channel : {0, 1}) {  // floats of which every byte is the rank, plus one
      EXPECT_CUDA(
          cudaMemsetAsync(fields[channel].data(), environment.rank + 1, many * sizeof(float), gpu.stream(channel)));
    }
    const auto step = [&](int channel) {
      const auto call = on(gpu.stream(channel), Algorithm::two_shot_push, channel);
      comm.all_reduce(fields[channel].span(), allfold::max, call);
      comm.all_reduce(fields[channel].span().first(few), allfold::max, call);
    };
    in_opposite_orders(environment, gpu, step);
    comm.status();
    for (const auto& field : fields) {
      std::vector<unsigned char> bytes(many * sizeof(float));
      gpu.copy(bytes.data(), field.data(), bytes.size());
      EXPECT(std::all_of(bytes.begin(), bytes.end(), [&](unsigned char b) { return b == environment.world_size; }));
    }
    gpu.meet();
  };
  allfold_test::over_gpus({2, 3, 4}, body);
}

TEST_CASE("two communicators in one graph") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t count = 5001;
    allfold_test::DeviceField<float> private_field(count);
    allfold::TcpStore store =
        allfold::TcpStore::connect(environment, allfold::Deadline::after(std::chrono::seconds(30)));
    Comm first = Comm::create(environment, store, allfold_test::gpu_options());
    Comm second = Comm::create(environment, store, allfold_test::gpu_options());
    auto a = first.allocate<float>(count);
    auto b = second.allocate<float>(count);
    const float world_size = static_cast<float>(environment.world_size);
    for (const Algorithm algorithm : {Algorithm::one_shot_packet, Algorithm::two_shot, Algorithm::two_shot_push}) {
      Script script(gpu, environment);
      const Graph graph(gpu, [&] {
        script.next();
        script.write(a.span());
        first.all_reduce(a, b, allfold::sum, on(gpu.stream(), algorithm));
        script.read(b.span());
        second.all_reduce(b, private_field.span(), allfold::sum, on(gpu.stream(), algorithm));
        script.read(private_field.span(), 0, Start::after_all, world_size);
      });
      for (unsigned i = 0; i < 300; ++i) {
        graph.launch(gpu.stream());
        breathe(gpu, i);
      }
      script.expect_right(300, std::string(allfold::name(algorithm)));
      first.status();
      second.status();
      gpu.meet();
    }
  });
}

TEST_CASE("two channels on two streams at once, eager and in a graph") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    constexpr std::size_t count = 40001;
    allfold::Options options = allfold_test::gpu_options();
    options.channels = 2;
    cudaEvent_t forked = nullptr;
    cudaEvent_t joined = nullptr;
    EXPECT_CUDA(cudaEventCreateWithFlags(&forked, cudaEventDisableTiming));
    EXPECT_CUDA(cudaEventCreateWithFlags(&joined, cudaEventDisableTiming));
    {
      Comm comm = Comm::create(environment, options);
      auto a = comm.allocate<float>(count);
      auto b = comm.allocate<float>(count);
      for (const Algorithm algorithm : {Algorithm::one_shot_packet, Algorithm::two_shot, Algorithm::two_shot_push}) {
        Script script(gpu, environment);
        const auto step = [&] {
          script.next();
          EXPECT_CUDA(cudaEventRecord(forked, gpu.stream(0)));
          EXPECT_CUDA(cudaStreamWaitEvent(gpu.stream(1), forked, 0));
          for (unsigned i = 0; i < 4; ++i) {
            script.write(a.span(), i, Start::after_all, 0);
            script.write(b.span(), i, Start::after_all, 1);
            comm.all_reduce(a, allfold::sum, on(gpu.stream(0), algorithm, 0));
            comm.all_reduce(b, allfold::sum, on(gpu.stream(1), algorithm, 1));
            script.read(a.span(), i, Start::after_all, 1, 0);
            script.read(b.span(), i, Start::after_all, 1, 1);
          }
          EXPECT_CUDA(cudaEventRecord(joined, gpu.stream(1)));
          EXPECT_CUDA(cudaStreamWaitEvent(gpu.stream(0), joined, 0));
        };
        for (unsigned i = 0; i < 100; ++i) {
          step();
          breathe(gpu, i);
        }
        script.expect_right(100, std::string(allfold::name(algorithm)));
        const Graph graph(gpu, step);
        for (unsigned i = 0; i < 100; ++i) {
          graph.launch(gpu.stream());
          breathe(gpu, i);
        }
        script.expect_right(200, std::string(allfold::name(algorithm)));
        comm.status();
        gpu.meet();
      }
    }
    EXPECT_CUDA(cudaEventDestroy(forked));
    EXPECT_CUDA(cudaEventDestroy(joined));
  });
}

// Programmatic dependent launch: a kernel that starts early, and waits for the kernels before it, must find the
// all-reduce's output complete; and an all-reduce that starts early must neither read what an earlier kernel still
// writes, nor write, on any rank, what one still reads.
TEST_CASE("kernels before and after an all-reduce may start early") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    for (const std::size_t count : counts) {
      allfold_test::DeviceField<float> private_a(count);
      allfold_test::DeviceField<float> private_b(count);
      Comm comm = Comm::create(environment, allfold_test::gpu_options());
      auto symmetric_a = comm.allocate<float>(count);
      auto symmetric_b = comm.allocate<float>(count);
      auto symmetric_out = comm.allocate<float>(count);
      for (const Start start : {Start::after_all, Start::early}) {
        if (start == Start::early && !gpu.has_programmatic_launch()) continue;
        for (const Algorithm algorithm : algorithms) {
          Script script(gpu, environment);
          const auto alternate = [&](std::span<float> a, std::span<float> b, std::span<float> out) {
            script.write(a, 0, start);
            script.write(b, 1, start);
            for (int i = 0; i < 5; ++i) {
              comm.all_reduce(a, out, allfold::sum, on(gpu.stream(), algorithm));
              script.read(out, 0, start);
              comm.all_reduce(b, out, allfold::sum, on(gpu.stream(), algorithm));
              script.read(out, 1, start);
            }
          };
          const Graph graph(gpu, [&] {
            script.next();
            alternate(symmetric_a.span(), symmetric_b.span(), symmetric_out.span());
            alternate(private_a.span(), private_b.span(), symmetric_out.span());
            // In place, from a kernel that may still write to one that may already read.
            for (unsigned i = 0; i < 5; ++i) {
              script.write(symmetric_a.span(), i, start);
              comm.all_reduce(symmetric_a, allfold::sum, on(gpu.stream(), algorithm));
              script.read(symmetric_a.span(), i, start);
            }
          });
          constexpr unsigned replays = 200;  // of 25 all-reduces
          for (unsigned i = 0; i < replays; ++i) {
            graph.launch(gpu.stream());
            breathe(gpu, i);
          }
          script.expect_right(replays, allfold::concat({allfold::name(algorithm), ", count ", count,
                                                        start == Start::early ? ", early" : ", one after another"}));
          comm.status();
          gpu.meet();
        }
      }
    }
  });
}
