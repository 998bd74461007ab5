// SPDX-License-Identifier: Apache-2.0

/// NCCL as a peer: loaded at run time, without its header, so that neither the build nor the run needs it.

#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <dlfcn.h>

#include "subjects.cuh"
#include "trial.cuh"

namespace bench {
namespace {

/// What NCCL's ABI has said since 2.0; the windows are of 2.27.
struct NcclId {
  char bytes[128];
};
using NcclComm = struct NcclCommObject*;
using NcclWindow = struct NcclWindowObject*;
constexpr int nccl_success = 0;
constexpr int nccl_in_progress = 7;
constexpr int nccl_sum = 0;
constexpr int nccl_symmetric_window = 1;

int nccl_type(ElementType type) {
  switch (type) {
    case ElementType::float16: return 6;
    case ElementType::bfloat16: return 9;
    default: return 7;
  }
}

struct Nccl {
  int (*get_version)(int*);
  const char* (*error_string)(int);
  int (*unique_id)(NcclId*);
  int (*init_rank)(NcclComm*, int, NcclId, int);
  int (*destroy)(NcclComm);
  int (*abort)(NcclComm);
  int (*async_error)(NcclComm, int*);
  int (*all_reduce)(const void*, void*, std::size_t, int, int, NcclComm, cudaStream_t);
  // Null before 2.27, or 2.19 for memory.
  int (*mem_alloc)(void**, std::size_t);
  int (*mem_free)(void*);
  int (*window_register)(NcclComm, void*, std::size_t, NcclWindow*, int);
  int (*window_deregister)(NcclComm, NcclWindow);

  void check(int status, const char* what) const {
    if (status == nccl_success) return;
    throw std::runtime_error(std::string(what) + ": " + error_string(status));
  }
  std::string version() const {
    int code = 0;
    check(get_version(&code), "ncclGetVersion");
    return std::to_string(code / 10000) + "." + std::to_string(code / 100 % 100) + "." + std::to_string(code % 100);
  }
};

/// @throws std::runtime_error with what the loader says.
Nccl load_nccl(const std::string& path) {
  std::vector<std::string> places = {path};
  if (path.empty()) places = {"libnccl.so.2", "/usr/local/cuda/lib64/libnccl.so.2", "/usr/local/cuda/lib/libnccl.so.2"};
  void* library = nullptr;
  std::string reason;
  for (const std::string& place : places) {
    library = ::dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
    if (reason.empty()) reason = ::dlerror();
  }
  if (library == nullptr) throw std::runtime_error(reason);
  Nccl nccl{};
  const auto find = [&](const char* name, auto*& function, bool needed = true) {
    void* const symbol = ::dlsym(library, name);
    if (symbol == nullptr && needed) throw std::runtime_error(std::string("the library has no ") + name);
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
  find("ncclGetVersion", nccl.get_version);
  find("ncclGetErrorString", nccl.error_string);
  find("ncclGetUniqueId", nccl.unique_id);
  find("ncclCommInitRank", nccl.init_rank);
  find("ncclCommDestroy", nccl.destroy);
  find("ncclCommAbort", nccl.abort);
  find("ncclCommGetAsyncError", nccl.async_error);
  find("ncclAllReduce", nccl.all_reduce);
  find("ncclMemAlloc", nccl.mem_alloc, false);
  find("ncclMemFree", nccl.mem_free, false);
  find("ncclCommWindowRegister", nccl.window_register, false);
  find("ncclCommWindowDeregister", nccl.window_deregister, false);
  return nccl;
}

/// Symmetric memory of NCCL's own.
class NcclWindowMemory {
 public:
  NcclWindowMemory(const Nccl& nccl, NcclComm comm, std::size_t bytes) : nccl_(nccl), comm_(comm) {
    nccl_.check(nccl_.mem_alloc(&data_, bytes), "ncclMemAlloc");
    const int status = nccl_.window_register(comm_, data_, bytes, &window_, nccl_symmetric_window);
    if (status != nccl_success) nccl_.mem_free(data_);
    nccl_.check(status, "ncclCommWindowRegister");
  }
  NcclWindowMemory(const NcclWindowMemory&) = delete;
  NcclWindowMemory& operator=(const NcclWindowMemory&) = delete;
  ~NcclWindowMemory() {
    if (window_ != nullptr) nccl_.window_deregister(comm_, window_);
    nccl_.mem_free(data_);
  }
  void* data() const noexcept { return data_; }

 private:
  const Nccl& nccl_;
  NcclComm comm_;
  void* data_ = nullptr;
  NcclWindow window_ = nullptr;
};

class NcclSubject final : public Subject {
 public:
  NcclSubject(std::shared_ptr<Gpu> gpu, bool symmetric, allfold::TcpStore& store)
      : gpu_(std::move(gpu)), symmetric_(symmetric) {
    attempt([&] {
      nccl_ = load_nccl(gpu_->plan().nccl_library);
      about_ = "NCCL " + nccl_.version();
      if (symmetric_ && (nccl_.mem_alloc == nullptr || nccl_.window_register == nullptr)) {
        throw std::runtime_error(about_ + " has no symmetric windows; 2.27 or later has");
      }
    });
    NcclId id{};
    attempt([&] { id = meet(store); });
    attempt([&] {
      nccl_.check(nccl_.init_rank(&nccl_comm_, gpu_->comm().world_size(), id, gpu_->comm().rank()), "ncclCommInitRank");
    });
    if (!symmetric_) return;
    attempt([&] { out_ = std::make_unique<NcclWindowMemory>(nccl_, nccl_comm_, window_bytes()); });
    if (gpu_->plan().in_place) return;
    attempt([&] { in_ = std::make_unique<NcclWindowMemory>(nccl_, nccl_comm_, window_bytes()); });
  }
  NcclSubject(const NcclSubject&) = delete;
  NcclSubject& operator=(const NcclSubject&) = delete;
  ~NcclSubject() override {
    const bool failing = std::uncaught_exceptions() > exceptions_;
    if (failing && nccl_comm_ != nullptr) {
      nccl_.abort(nccl_comm_);  // to destroy it would be to wait for peers, and its windows went with it
      static_cast<void>(in_.release());
      static_cast<void>(out_.release());
      return;
    }
    in_.reset();
    out_.reset();
    if (nccl_comm_ != nullptr) nccl_.destroy(nccl_comm_);
  }

  std::string name() const override { return symmetric_ ? "nccl_symm" : "nccl"; }
  std::string about() const override {
    return about_ + (symmetric_ ? ", windows registered as symmetric" : ", memory of cudaMalloc");
  }
  std::string absent() const override { return absent_; }

  std::unique_ptr<Trial> trial(const Case& c, std::size_t count) override {
    CudaCall call{.in = symmetric_ ? (in_ ? in_ : out_)->data() : gpu_->private_in(),
                  .out = symmetric_ ? out_->data() : gpu_->private_out(),
                  .match = Match::near};
    if (gpu_->plan().in_place) call.in = call.out;
    call.enqueue = [this, in = call.in, out = call.out, count,
                    type = nccl_type(gpu_->plan().type)](cudaStream_t stream) {
      nccl_.check(nccl_.all_reduce(in, out, count, type, nccl_sum, nccl_comm_, stream), "ncclAllReduce");
    };
    call.status = [this] {
      int status = nccl_success;
      nccl_.check(nccl_.async_error(nccl_comm_, &status), "ncclCommGetAsyncError");
      if (status != nccl_in_progress) nccl_.check(status, "ncclAllReduce");
    };
    return std::make_unique<CudaTrial>(*gpu_, c.mode, operands(*gpu_, count), allfold::Algorithm::none,
                                       std::move(call));
  }

 private:
  /// One step of the way to take part, unless one before has failed. What fails on one rank keeps all out.
  template <class Step>
  void attempt(Step&& step) {
    if (!absent_.empty()) return;
    try {
      step();
    } catch (const std::exception& error) {
      absent_ = error.what();
    }
    std::vector<double> failed = {absent_.empty() ? 0.0 : 1.0};
    gpu_->comm().all_reduce(failed, allfold::max);
    if (failed[0] > 0 && absent_.empty()) absent_ = "another rank has none";
  }

  /// The id that rank 0 draws, by way of the store.
  NcclId meet(allfold::TcpStore& store) {
    NcclId id{};
    const std::string key = "allfold_perf/" + name();
    const allfold::Deadline deadline = allfold::Deadline::after(std::chrono::seconds(60));
    if (gpu_->comm().rank() == 0) {
      nccl_.check(nccl_.unique_id(&id), "ncclGetUniqueId");
      store.set(key, std::string_view(id.bytes, sizeof id.bytes), deadline);
    } else {
      const std::string word = store.get(key, deadline);
      word.copy(id.bytes, sizeof id.bytes);
    }
    return id;
  }

  /// Registration wants whole pages.
  std::size_t window_bytes() const {
    constexpr std::size_t page = std::size_t{2} << 20;
    return (gpu_->plan().max_bytes + page - 1) / page * page;
  }

  std::shared_ptr<Gpu> gpu_;
  bool symmetric_;
  int exceptions_ = std::uncaught_exceptions();
  Nccl nccl_{};
  std::string about_, absent_;
  NcclComm nccl_comm_ = nullptr;
  std::unique_ptr<NcclWindowMemory> in_, out_;
};

}  // namespace

std::unique_ptr<Subject> make_nccl_subject(std::shared_ptr<Gpu> gpu, bool symmetric, allfold::TcpStore& store) {
  return std::make_unique<NcclSubject>(std::move(gpu), symmetric, store);
}

}  // namespace bench
