// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <pthread.h>
#include <unistd.h>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>
#include <allfold/base/error.hpp>
#include <allfold/launch/message_operation.hpp>
#include <allfold/launch/message_progress.hpp>
#include <allfold/memory/cuda_driver.cuh>
#include <allfold/memory/cuda_scope.cuh>

namespace allfold {

/// Lets streams wait for operations: a word of pinned memory that the stream waits for is written when the operation is
/// over. For any thread. It must outlive the operations.
///
/// While a stream waits, some calls of CUDA wait for it, and other work of the GPU waits for them: kernels that are
/// loaded, memory that is freed (docs/decisions/0014-gpu-memory-over-ucx.md has the list). An operation needs such
/// work, so it would wait for its own end. Hence kernels of ours are loaded before (load_once), and a thread watches
/// who makes progress: if it is held up in a call of CUDA, all streams are let go, and the calls end.
class CudaGates final : public StreamGates {
 public:
  CudaGates(const CudaDriver& driver, int device) noexcept : driver_(driver), device_(device) {}
  CudaGates(const CudaGates&) = delete;
  CudaGates& operator=(const CudaGates&) = delete;
  ~CudaGates() {
    if (watcher_.joinable()) {
      {
        const std::lock_guard lock(mutex_);
        stop_ = true;
      }
      changed_.notify_all();
      watcher_.join();
    }
    const CudaScope scope(device_);
    for (void* const page : pages_) static_cast<void>(cudaFreeHost(page));
  }

  void close_until_over(const Where& where, OperationRef operation, CUstream_st* stream) override {
    const CudaScope scope(device_);
    check_not_captured(where, stream);
    auto gate = close(where, stream);
    if (operation->listen(*gate)) {
      static_cast<void>(gate.release());  // it deletes itself
    } else {
      gate->open();
    }
  }

  /// Runs `load() -> cudaError_t` once for each key, while no stream waits. By who calls, before the operation begins.
  template <class Load>
  void load_once(const Where& where, const void* key, Load&& load) {
    const std::lock_guard none_closes(enqueuing_);
    if (std::find(loaded_.begin(), loaded_.end(), key) != loaded_.end()) return;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return closed_.empty() || given_up(); });
    }
    const CudaScope scope(device_);
    check_cuda(where, load(), {"the kernels of a reduction could not be loaded"});
    loaded_.push_back(key);
  }

  /// Lets all streams go that wait; whether there were any.
  bool open_all() noexcept {
    const std::lock_guard lock(mutex_);
    for (Gate* const gate : closed_) gate->let_go();
    return !closed_.empty();
  }

  /// By who makes progress, again and again.
  void beat() noexcept { beats_.store(beats_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed); }
  /// Whether streams were let go because progress was held up.
  bool given_up() const noexcept { return given_up_.load(std::memory_order_acquire); }

 private:
  /// It comes again with the next value: who still waits for an earlier one is let through by it too.
  struct Word {
    std::uint32_t* word = nullptr;
    std::uint32_t* seen_by_device = nullptr;
    std::uint32_t value = 1;
  };

  struct Gate final : OperationListener {
    Gate(CudaGates& owner, const Word& which) noexcept : gates(owner), word(which) {}

    void over(MessageOperation&) override {
      const std::unique_ptr<Gate> self(this);
      open();
    }
    void open() noexcept {
      let_go();
      gates.remove(*this);
    }
    void let_go() const noexcept { std::atomic_ref(*word.word).store(word.value, std::memory_order_release); }

    CudaGates& gates;
    Word word;
  };

  static void CUDART_CB wait_on_host(void* argument) {
    const std::unique_ptr<Word> word(static_cast<Word*>(argument));
    while (static_cast<std::int32_t>(std::atomic_ref(*word->word).load(std::memory_order_acquire) - word->value) < 0) {
      ::usleep(20);
    }
  }

  /// A gate that the stream waits for.
  std::unique_ptr<Gate> close(const Where& where, CUstream_st* stream) {
    const std::lock_guard nothing_loads(enqueuing_);
    start_watcher(where);
    auto gate = std::make_unique<Gate>(*this, take(where));
    try {
      enqueue(where, stream, *gate);
    } catch (...) {
      remove(*gate);
      throw;
    }
    return gate;
  }

  void enqueue(const Where& where, CUstream_st* stream, Gate& gate) {
    {
      const std::lock_guard lock(mutex_);
      closed_.push_back(&gate);
    }
    changed_.notify_all();
    const CUresult waits = driver_.wait_for_word(stream, reinterpret_cast<CUdeviceptr>(gate.word.seen_by_device),
                                                 gate.word.value, CU_STREAM_WAIT_VALUE_GEQ);
    if (waits == CUDA_ERROR_NOT_SUPPORTED) {
      auto word = std::make_unique<Word>(gate.word);
      check_cuda(where, cudaLaunchHostFunc(stream, &wait_on_host, word.get()), {"the stream cannot wait for the host"});
      static_cast<void>(word.release());  // wait_on_host deletes it
    } else {
      driver_.check(where, waits, {"the stream cannot wait for the operation; expected one of the communicator's GPU"});
    }
  }

  Word take(const Where& where) {
    if (free_words() == 0) add_page(where);
    const std::lock_guard lock(mutex_);
    const Word word = free_.back();
    free_.pop_back();
    return word;
  }
  std::size_t free_words() noexcept {
    const std::lock_guard lock(mutex_);
    return free_.size();
  }

  void remove(const Gate& gate) noexcept {
    {
      const std::lock_guard lock(mutex_);
      std::erase(closed_, &gate);
      free_.push_back({gate.word.word, gate.word.seen_by_device, gate.word.value + 1});
    }
    changed_.notify_all();
  }

  ALLFOLD_COLD void add_page(const Where& where) {
    constexpr std::size_t words = 256;
    void* page = nullptr;
    check_cuda(where, cudaHostAlloc(&page, words * sizeof(std::uint32_t), cudaHostAllocPortable | cudaHostAllocMapped),
               {"there is no pinned memory for a stream to wait for"});
    pages_.push_back(page);
    void* seen = nullptr;
    check_cuda(where, cudaHostGetDevicePointer(&seen, page, 0), {"the GPU does not see pinned memory of the host"});
    const std::lock_guard lock(mutex_);
    free_.reserve(pages_.size() * words);  // so that remove() never fails
    for (std::size_t w = 0; w < words; ++w) {
      auto* const word = static_cast<std::uint32_t*>(page) + w;
      *word = 0;
      free_.push_back({word, static_cast<std::uint32_t*>(seen) + w, 1});
    }
  }

  ALLFOLD_COLD void start_watcher(const Where& where) {
    if (watcher_.joinable()) return;
    try {
      watcher_ = std::thread([this] { watch(); });
    } catch (const std::system_error& error) {
      throw SystemError(where, error.code().value(), {"the thread that watches streams could not be started"});
    }
  }
  void watch() noexcept {
    ::pthread_setname_np(::pthread_self(), "allfold-gates");
    std::unique_lock lock(mutex_);
    std::uint64_t seen = 0;
    int still = 0;
    while (!stop_) {
      if (closed_.empty()) {
        still = 0;
        changed_.wait(lock);
      } else if (!changed_.wait_for(lock, std::chrono::milliseconds(100),
                                    [this] { return stop_ || closed_.empty(); })) {
        const std::uint64_t beats = beats_.load(std::memory_order_relaxed);
        still = std::exchange(seen, beats) == beats ? still + 1 : 0;
        if (still < patience) continue;
        for (Gate* const gate : closed_) gate->let_go();
        given_up_.store(true, std::memory_order_release);
        changed_.notify_all();  // who waits to load something
      }
    }
  }

  /// Tenths of a second. Nothing that progress does by itself takes so long.
  static constexpr int patience = 30;

  const CudaDriver& driver_;
  int device_;
  std::mutex enqueuing_;  ///< held in calls of CUDA, and before mutex_
  std::vector<void*> pages_;
  std::vector<const void*> loaded_;
  std::thread watcher_;
  std::mutex mutex_;  ///< never held in calls of CUDA: the watcher takes it
  std::condition_variable changed_;
  std::vector<Word> free_;
  std::vector<Gate*> closed_;
  bool stop_ = false;
  std::atomic<std::uint64_t> beats_{0};
  std::atomic<bool> given_up_{false};
};

}  // namespace allfold
