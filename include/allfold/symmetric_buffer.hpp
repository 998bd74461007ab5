// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include <allfold/op/element.hpp>

namespace allfold {

/// Symmetric memory: as many elements on every rank, which all ranks reach, so that collectives on it copy nothing in
/// or out. Owns this rank's part, zero at first; made by `Communicator::allocate`. May outlive the communicator, and
/// its peers' parts may go before it.
template <element T, class Allocation>
class SymmetricBuffer {
 public:
  using value_type = T;

  SymmetricBuffer() noexcept = default;
  SymmetricBuffer(Allocation allocation, std::size_t count) noexcept
      : allocation_(std::move(allocation)), data_(static_cast<T*>(allocation_->data())), count_(count) {}
  SymmetricBuffer(SymmetricBuffer&& other) noexcept
      : allocation_(std::move(other.allocation_)),
        data_(std::exchange(other.data_, nullptr)),
        count_(std::exchange(other.count_, 0)) {}
  SymmetricBuffer& operator=(SymmetricBuffer&& other) noexcept {
    allocation_ = std::move(other.allocation_);
    data_ = std::exchange(other.data_, nullptr);
    count_ = std::exchange(other.count_, 0);
    return *this;
  }

  T* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return count_; }
  std::span<T> span() const noexcept { return {data_, count_}; }
  T* begin() const noexcept { return data_; }
  T* end() const noexcept { return data_ + count_; }
  T& operator[](std::size_t i) const noexcept { return data_[i]; }

 private:
  Allocation allocation_{};
  T* data_ = nullptr;
  std::size_t count_ = 0;
};

}  // namespace allfold
