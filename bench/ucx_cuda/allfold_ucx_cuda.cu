// SPDX-License-Identifier: Apache-2.0
// Times all-reduces of memory of GPUs over UCX, a GPU for each rank, and prints them as CSV.
//
//   allfold_ucx_cuda RANKS auto|direct|staged|host TLS CHUNK_BYTES [BYTES ..]
//
// TLS: UCX_TLS; all: UCX's own choice. host: memory of the host, which is what staging cannot be faster than.
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
#include <dlfcn.h>

#include <ucp/api/ucp.h>

#include <allfold/ucx.cuh>

namespace {

struct Plan {
  int ranks;
  std::string_view way;
  const char* tls;
  std::size_t chunk_bytes;
  std::vector<std::size_t> bytes;

  bool on_host() const { return way == "host"; }
};

allfold::CudaWay way_of(std::string_view name) {
  if (name == "auto" || name == "host") return allfold::CudaWay::automatic;
  if (name == "direct") return allfold::CudaWay::direct;
  if (name == "staged") return allfold::CudaWay::staged;
  throw std::runtime_error("the second argument is not auto, direct, staged or host");
}

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorName(error));
}

/// Memory of the GPU, or of the host.
template <class T>
class Vector {
 public:
  Vector(std::size_t count, bool on_host) : count_(count), on_host_(on_host) {
    if (on_host) {
      data_ = static_cast<T*>(std::malloc(count * sizeof(T)));
    } else {
      check(cudaMalloc(reinterpret_cast<void**>(&data_), count * sizeof(T)));
    }
  }
  Vector(const Vector&) = delete;
  Vector& operator=(const Vector&) = delete;
  ~Vector() { on_host_ ? std::free(data_) : static_cast<void>(cudaFree(data_)); }

  std::span<T> span() const { return {data_, count_}; }
  void set(const std::vector<T>& values) {
    check(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyDefault));
  }
  std::vector<T> values() const {
    std::vector<T> all(count_);
    check(cudaMemcpy(all.data(), data_, count_ * sizeof(T), cudaMemcpyDefault));
    return all;
  }

 private:
  std::size_t count_;
  bool on_host_;
  T* data_ = nullptr;
};

/// Whether all elements of a sum are right: small whole numbers, which any type has.
template <class T>
void check_sum(auto& comm, Vector<T>& x) {
  std::vector<T> values(x.span().size());
  const auto operand = [](int rank, std::size_t i) { return static_cast<float>(i % 29 + static_cast<unsigned>(rank)); };
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = T(operand(comm.rank(), i));
  x.set(values);
  comm.all_reduce(x.span(), allfold::sum);
  values = x.values();
  for (std::size_t i = 0; i < values.size(); ++i) {
    float want = 0;
    for (int rank = 0; rank < comm.world_size(); ++rank) want += operand(rank, i);
    if (static_cast<float>(values[i]) == want) continue;
    throw std::runtime_error("element " + std::to_string(i) + " is " + std::to_string(static_cast<float>(values[i])) +
                             "; expected " + std::to_string(want));
  }
}

template <class T>
void time_one(auto& comm, const Plan& plan, std::string_view progress, std::size_t bytes) {
  Vector<T> x(bytes / sizeof(T), plan.on_host());
  const int rounds = bytes <= (std::size_t{1} << 20) ? 50 : 12;
  check_sum(comm, x);
  comm.all_reduce(x.span(), allfold::max);
  std::vector<double> us;
  for (int round = 0; round < rounds; ++round) {
    comm.barrier();
    const auto begin = allfold::Clock::now();
    comm.all_reduce(x.span(), allfold::max);
    us.push_back(std::chrono::duration<double, std::micro>(allfold::Clock::now() - begin).count());
  }
  std::sort(us.begin(), us.end());
  if (comm.rank() != 0) return;
  const double median = us[us.size() / 2];
  const double bus = 2.0 * (plan.ranks - 1) / plan.ranks * static_cast<double>(bytes) / median / 1e3;
  const char* const way = plan.on_host() ? "host" : comm.transport().link().direct() ? "direct" : "staged";
  const std::string type(allfold::type_name<T>());
  std::printf("%s,%d,%s,%s,%s,%s,%zu,%zu,%.1f,%.1f,%.2f\n", ::ucp_get_version_string(), plan.ranks, type.c_str(), way,
              plan.tls, std::string(progress).c_str(), plan.chunk_bytes, bytes, median, us.front(), bus);
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

void say_which_ucx() {
  Dl_info found{};
  const bool known = ::dladdr(reinterpret_cast<void*>(&::ucp_get_version_string), &found) != 0;
  std::fprintf(stderr, "UCX %s: %s\n", ::ucp_get_version_string(), known ? found.dli_fname : "?");
}

int run(int argc, char** argv) {
  if (argc < 5) {
    std::fputs("usage: allfold_ucx_cuda RANKS auto|direct|staged|host TLS CHUNK_BYTES [BYTES ..]\n", stderr);
    return 2;
  }
  Plan plan{std::atoi(argv[1]), argv[2], argv[3], static_cast<std::size_t>(std::atoll(argv[4])), {}};
  for (int i = 5; i < argc; ++i) plan.bytes.push_back(static_cast<std::size_t>(std::atoll(argv[i])));
  if (plan.bytes.empty()) plan.bytes.push_back(std::size_t{64} << 20);
  std::strcmp(plan.tls, "all") == 0 ? ::unsetenv("UCX_TLS") : ::setenv("UCX_TLS", plan.tls, 1);
  say_which_ucx();
  std::puts("ucx,ranks,type,way,tls,progress,chunk_bytes,bytes,median_us,min_us,bus_gb_s");
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
