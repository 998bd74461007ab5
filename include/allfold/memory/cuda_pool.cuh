// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>
#include <allfold/memory/cuda_scope.cuh>

namespace allfold {

/// Memory of a GPU, or memory of the host that GPUs copy from and to by themselves, in blocks that are kept for the
/// next taker: CUDA's own allocation may wait for the whole GPU. Sizes are rounded up to one of four in each octave.
///
/// A pool must outlive its blocks and belongs to one thread at a time. Whoever takes from it has made its GPU current.
class CudaPool {
 public:
  enum class Kind : bool { device, pinned };

  CudaPool(Kind kind, int device) noexcept : kind_(kind), device_(device) {}
  CudaPool(const CudaPool&) = delete;
  CudaPool& operator=(const CudaPool&) = delete;
  ~CudaPool() {
    const CudaScope scope(device_);
    for (const std::vector<void*>& list : free_) {
      for (void* const block : list) static_cast<void>(kind_ == Kind::device ? cudaFree(block) : cudaFreeHost(block));
    }
  }

  /// At least so many bytes, not initialized.
  /// @throws CudaError without room for them
  void* take(const Where& where, std::size_t bytes) {
    const std::size_t size_class = class_of(bytes);
    if (size_class >= free_.size()) free_.resize(size_class + 1);
    std::vector<void*>& list = free_[size_class];
    if (!list.empty()) {
      held_ += bytes_of(size_class);
      void* const block = list.back();
      list.pop_back();
      return block;
    }
    list.reserve(++blocks_);  // so that give() never fails
    void* block = nullptr;
    const std::size_t whole = bytes_of(size_class);
    if (kind_ == Kind::device) {
      check_cuda(where, cudaMalloc(&block, whole),
                 {"the GPU has no ", whole, " bytes for a collective's own use; free some of its memory"});
    } else {
      check_cuda(
          where, cudaHostAlloc(&block, whole, cudaHostAllocPortable),
          {"there are no ", whole, " bytes of pinned memory of the host to stage memory of the GPU; see ulimit -l"});
    }
    held_ += whole;
    return block;
  }

  /// A block that take(.., bytes) gave, which nobody uses any more, the GPU included.
  void give(void* block, std::size_t bytes) noexcept {
    const std::size_t size_class = class_of(bytes);
    held_ -= bytes_of(size_class);
    free_[size_class].push_back(block);
  }

  /// What its takers hold.
  std::size_t held_bytes() const noexcept { return held_; }

 private:
  /// Class 4 q + r has (4 + r) * 2^q times 64 bytes: any block is aligned as CUDA aligns.
  static constexpr std::size_t class_of(std::size_t bytes) noexcept {
    const std::size_t units = bytes <= 256 ? 4 : (bytes - 1) / 64 + 1;
    const int octave = std::bit_width(units - 1) < 3 ? 0 : std::bit_width(units - 1) - 3;
    const std::size_t steps = ((units - 1) >> octave) + 1;  // 4 to 8; 8 is the next octave's 4
    return 4 * static_cast<std::size_t>(octave) + steps - 4;
  }
  static constexpr std::size_t bytes_of(std::size_t size_class) noexcept {
    return (4 + size_class % 4) << (size_class / 4) << 6;
  }

  Kind kind_;
  int device_;
  std::vector<std::vector<void*>> free_;  ///< [class]
  std::size_t blocks_ = 0;
  std::size_t held_ = 0;
};

/// Owns a block of such a pool.
class CudaBlock {
 public:
  CudaBlock() noexcept = default;
  CudaBlock(CudaPool& pool, const Where& where, std::size_t bytes)
      : pool_(&pool), bytes_(bytes), data_(pool.take(where, bytes)) {}
  CudaBlock(CudaBlock&& other) noexcept
      : pool_(other.pool_), bytes_(other.bytes_), data_(std::exchange(other.data_, nullptr)) {}
  CudaBlock& operator=(CudaBlock&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(bytes_, other.bytes_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~CudaBlock() {
    if (data_ != nullptr) pool_->give(data_, bytes_);
  }

  void* data() const noexcept { return data_; }

 private:
  CudaPool* pool_ = nullptr;
  std::size_t bytes_ = 0;
  void* data_ = nullptr;
};

}  // namespace allfold
