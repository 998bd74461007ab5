// SPDX-License-Identifier: Apache-2.0
// Times all-reduces of memory of GPUs over UCX, a GPU for each rank, and prints them as CSV.
//
//   allfold_ucx_cuda RANKS auto|direct|staged TLS CHUNK_BYTES [BYTES ..]     TLS: UCX_TLS; all: UCX's own choice
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <cuda_runtime_api.h>

#include <allfold/ucx.cuh>

namespace {

struct Plan {
  int ranks;
  std::string_view way;
  const char* tls;
  std::size_t chunk_bytes;
  std::vector<std::size_t> bytes;
};

allfold::CudaWay way_of(std::string_view name) {
  if (name == "auto") return allfold::CudaWay::automatic;
  if (name == "direct") return allfold::CudaWay::direct;
  if (name == "staged") return allfold::CudaWay::staged;
  throw std::runtime_error("the second argument is not auto, direct or staged");
}

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorName(error));
}

template <class T>
void time_one(auto& comm, const Plan& plan, std::string_view progress, std::size_t bytes) {
  const std::size_t count = bytes / sizeof(T);
  T* data = nullptr;
  check(cudaMalloc(reinterpret_cast<void**>(&data), bytes));
  const std::vector<T> ones(count, T(1.0F));
  check(cudaMemcpy(data, ones.data(), bytes, cudaMemcpyDefault));
  const std::span<T> x(data, count);
  const int rounds = bytes <= (std::size_t{1} << 20) ? 50 : 12;
  comm.all_reduce(x, allfold::sum);
  T last{};
  check(cudaMemcpy(&last, data + count - 1, sizeof(T), cudaMemcpyDefault));
  if (static_cast<float>(last) != static_cast<float>(plan.ranks)) throw std::runtime_error("a wrong result");
  comm.all_reduce(x, allfold::max);
  std::vector<double> us;
  for (int round = 0; round < rounds; ++round) {
    comm.barrier();
    const auto begin = allfold::Clock::now();
    comm.all_reduce(x, allfold::max);
    us.push_back(std::chrono::duration<double, std::micro>(allfold::Clock::now() - begin).count());
  }
  check(cudaFree(data));
  std::sort(us.begin(), us.end());
  if (comm.rank() != 0) return;
  const double median = us[us.size() / 2];
  const double bus = 2.0 * (plan.ranks - 1) / plan.ranks * static_cast<double>(bytes) / median / 1e3;
  const bool direct = comm.transport().link().direct();
  std::printf("%d,%.*s,%s,%s,%.*s,%zu,%zu,%.1f,%.1f,%.2f\n", plan.ranks,
              static_cast<int>(allfold::type_name<T>().size()), allfold::type_name<T>().data(),
              direct ? "direct" : "staged", plan.tls, static_cast<int>(progress.size()), progress.data(),
              plan.chunk_bytes, bytes, median, us.front(), bus);
  std::fflush(stdout);
}

template <class Transport>
void time_all(const allfold::Environment& environment, const Plan& plan, std::string_view progress) {
  int gpus = 0;
  check(cudaGetDeviceCount(&gpus));
  check(cudaSetDevice(environment.rank % gpus));
  allfold::Options options;
  options.timeout = std::chrono::seconds(20);
  allfold::MessageOptions of_messages;
  of_messages.cuda = way_of(plan.way);
  of_messages.cuda_chunk_bytes = plan.chunk_bytes;
  auto comm = allfold::Communicator<Transport>::create(environment, options, of_messages);
  for (const std::size_t bytes : plan.bytes) {
    time_one<float>(comm, plan, progress, bytes);
    time_one<__nv_bfloat16>(comm, plan, progress, bytes);
  }
}

int run(int argc, char** argv) {
  if (argc < 5) {
    std::fputs("usage: allfold_ucx_cuda RANKS auto|direct|staged TLS CHUNK_BYTES [BYTES ..]\n", stderr);
    return 2;
  }
  Plan plan{std::atoi(argv[1]), argv[2], argv[3], static_cast<std::size_t>(std::atoll(argv[4])), {}};
  for (int i = 5; i < argc; ++i) plan.bytes.push_back(static_cast<std::size_t>(std::atoll(argv[i])));
  if (plan.bytes.empty()) plan.bytes.push_back(std::size_t{64} << 20);
  std::strcmp(plan.tls, "all") == 0 ? ::unsetenv("UCX_TLS") : ::setenv("UCX_TLS", plan.tls, 1);
  std::puts("ranks,type,way,tls,progress,chunk_bytes,bytes,median_us,min_us,bus_gb_s");
  std::fflush(stdout);
  bool ok = true;
  const auto on_ranks = [&](auto body) {
    for (const auto& outcome : allfold::launch_outcomes(plan.ranks, body, {.timeout = std::chrono::seconds(60)})) {
      if (!outcome.ok()) std::fprintf(stderr, "rank %d: %s\n", outcome.rank, outcome.error.c_str());
      ok = ok && outcome.ok();
    }
  };
  on_ranks([&](const allfold::Environment& e) { time_all<allfold::UcxCudaTransport>(e, plan, "caller"); });
  on_ranks([&](const allfold::Environment& e) { time_all<allfold::UcxCudaThreadTransport>(e, plan, "thread"); });
  return ok ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
