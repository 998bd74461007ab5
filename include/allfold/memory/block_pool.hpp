// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include <allfold/base/config.hpp>

namespace allfold {

/// Memory that is taken and given back in blocks, and kept for the next taker: a call that ran before allocates
/// nothing. Sizes are rounded up to one of four in each octave, so that at most a quarter lies idle.
///
/// Blocks begin at a cache line. A pool must outlive its blocks and belongs to one thread at a time.
class BlockPool {
 public:
  BlockPool() noexcept = default;
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool() {
    for (Free*& list : free_) {
      while (list != nullptr) ::operator delete(std::exchange(list, list->next), alignment);
    }
  }

  /// At least so many bytes, not initialized. @throws std::bad_alloc
  void* take(std::size_t bytes) {
    if (bytes > largest) throw std::bad_alloc();
    const int size_class = class_of(bytes);
    if (free_[size_class] != nullptr) return std::exchange(free_[size_class], free_[size_class]->next);
    ++allocations_;
    return ::operator new(bytes_of(size_class), alignment);
  }

  /// A block that take(bytes) gave.
  void give(void* block, std::size_t bytes) noexcept {
    Free*& list = free_[class_of(bytes)];
    list = ::new (block) Free{list};
  }

  /// How often the pool had to ask for memory. It stands still once its users repeat themselves.
  std::size_t allocations() const noexcept { return allocations_; }

 private:
  struct Free {
    Free* next;
  };

  static constexpr std::align_val_t alignment{cache_line_bytes};
  static constexpr std::size_t largest = std::size_t{1} << 60;
  static constexpr int classes = 4 * 55;

  /// Class 4 q + r has (4 + r) * 2^q quarters of a cache line.
  static constexpr int class_of(std::size_t bytes) noexcept {
    constexpr std::size_t quarter = cache_line_bytes / 4;
    const std::size_t quarters = bytes <= cache_line_bytes ? 4 : (bytes - 1) / quarter + 1;
    const int octave = std::bit_width(quarters) - 3;
    const std::size_t steps = ((quarters - 1) >> octave) + 1;  // 4 to 8; 8 is the next octave's 4
    return 4 * octave + static_cast<int>(steps) - 4;
  }
  static constexpr std::size_t bytes_of(int size_class) noexcept {
    return (std::size_t{4} + static_cast<std::size_t>(size_class % 4)) << (size_class / 4) << 4;
  }
  static_assert(cache_line_bytes == 64);

  Free* free_[classes] = {};
  std::size_t allocations_ = 0;
};

/// Owns a block of a pool.
class Block {
 public:
  Block() noexcept = default;
  Block(BlockPool& pool, std::size_t bytes) : pool_(&pool), bytes_(bytes), data_(pool.take(bytes)) {}
  Block(Block&& other) noexcept
      : pool_(other.pool_), bytes_(other.bytes_), data_(std::exchange(other.data_, nullptr)) {}
  Block& operator=(Block&& other) noexcept {
    if (this != &other) {
      reset();
      pool_ = other.pool_;
      bytes_ = other.bytes_;
      data_ = std::exchange(other.data_, nullptr);
    }
    return *this;
  }
  ~Block() { reset(); }

  void* data() const noexcept { return data_; }

 private:
  void reset() noexcept {
    if (data_ != nullptr) pool_->give(std::exchange(data_, nullptr), bytes_);
  }

  BlockPool* pool_ = nullptr;
  std::size_t bytes_ = 0;
  void* data_ = nullptr;
};

/// An array of plain values in a block of a pool, not initialized.
template <class T>
class BlockArray {
 public:
  BlockArray(BlockPool& pool, std::size_t size) : block_(pool, size * sizeof(T)), size_(size) {}

  T* data() const noexcept { return static_cast<T*>(block_.data()); }
  T& operator[](std::size_t i) const noexcept { return data()[i]; }
  std::span<const T> span() const noexcept { return {data(), size_}; }

 private:
  static_assert(std::is_trivial_v<T>);
  Block block_;
  std::size_t size_;
};

}  // namespace allfold
