// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <unistd.h>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>
#include <allfold/launch/message_operation.hpp>
#include <allfold/launch/message_progress.hpp>
#include <allfold/memory/cuda_driver.cuh>
#include <allfold/memory/cuda_scope.cuh>

namespace allfold {

/// Lets streams wait for operations: a word of pinned memory that the stream waits for is written when the operation is
/// over. For any thread. It must outlive the operations.
class CudaGates final : public StreamGates {
 public:
  CudaGates(const CudaDriver& driver, int device) noexcept : driver_(driver), device_(device) {}
  CudaGates(const CudaGates&) = delete;
  CudaGates& operator=(const CudaGates&) = delete;
  ~CudaGates() {
    for (void* const page : pages_) static_cast<void>(cudaFreeHost(page));
  }

  void close_until_over(const Where& where, OperationRef operation, CUstream_st* stream) override {
    const CudaScope scope(device_);
    check_not_captured(where, stream);
    auto gate = std::make_unique<Gate>(*this, take(where));
    const CUresult waits = driver_.wait_for_word(stream, reinterpret_cast<CUdeviceptr>(gate->word.seen_by_device),
                                                 gate->word.value, CU_STREAM_WAIT_VALUE_GEQ);
    if (waits == CUDA_ERROR_NOT_SUPPORTED) {
      auto word = std::make_unique<Word>(gate->word);
      check_cuda(where, cudaLaunchHostFunc(stream, &wait_on_host, word.get()), {"the stream cannot wait for the host"});
      static_cast<void>(word.release());  // wait_on_host deletes it
    } else {
      driver_.check(where, waits, {"the stream cannot wait for the operation; expected one of the communicator's GPU"});
    }
    if (operation->listeners().add(*gate)) {
      static_cast<void>(gate.release());  // it deletes itself
    } else {
      gate->open();
    }
  }

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
      std::atomic_ref(*word.word).store(word.value, std::memory_order_release);
      gates.give(word);
    }

    CudaGates& gates;
    Word word;
  };

  static void CUDART_CB wait_on_host(void* argument) {
    const std::unique_ptr<Word> word(static_cast<Word*>(argument));
    while (static_cast<std::int32_t>(std::atomic_ref(*word->word).load(std::memory_order_acquire) - word->value) < 0) {
      ::usleep(20);
    }
  }

  Word take(const Where& where) {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) add_page(where);
    const Word word = free_.back();
    free_.pop_back();
    return word;
  }
  void give(Word word) noexcept {
    ++word.value;
    const std::lock_guard lock(mutex_);
    free_.push_back(word);
  }

  ALLFOLD_COLD void add_page(const Where& where) {
    constexpr std::size_t words = 256;
    void* page = nullptr;
    check_cuda(where, cudaHostAlloc(&page, words * sizeof(std::uint32_t), cudaHostAllocPortable | cudaHostAllocMapped),
               {"there is no pinned memory for a stream to wait for"});
    pages_.push_back(page);
    void* seen = nullptr;
    check_cuda(where, cudaHostGetDevicePointer(&seen, page, 0), {"the GPU does not see pinned memory of the host"});
    free_.reserve(pages_.size() * words);  // so that give() never fails
    for (std::size_t w = 0; w < words; ++w) {
      auto* const word = static_cast<std::uint32_t*>(page) + w;
      *word = 0;
      free_.push_back({word, static_cast<std::uint32_t*>(seen) + w, 1});
    }
  }

  const CudaDriver& driver_;
  int device_;
  std::mutex mutex_;
  std::vector<void*> pages_;
  std::vector<Word> free_;
};

}  // namespace allfold
