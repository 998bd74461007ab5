// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include <allfold/memory/window.hpp>
#include <allfold/op/element.hpp>

namespace allfold {

/// Symmetric memory: as many elements on every rank, which all ranks reach, so that collectives on it copy nothing in
/// or out. `Communicator::allocate` makes one that owns this rank's part, which is zero at first; it may outlive the
/// communicator, and its peers' parts may go before it. One that `Communicator::register_buffer` makes refers to memory
/// of the caller's, which has to outlive all ranks' buffers.
template <element T, class Allocation>
class SymmetricBuffer {
 public:
  using value_type = T;

  SymmetricBuffer() noexcept = default;
  SymmetricBuffer(Allocation allocation, std::size_t count, int world_size) noexcept
      : allocation_(std::move(allocation)),
        data_(static_cast<T*>(allocation_->data())),
        count_(count),
        ranks_(static_cast<std::size_t>(world_size)) {
    for (std::size_t r = 0; r < ranks_; ++r) peers_[r] = static_cast<T*>(allocation_->window().at[r]);
  }
  SymmetricBuffer(SymmetricBuffer&& other) noexcept { *this = std::move(other); }
  SymmetricBuffer& operator=(SymmetricBuffer&& other) noexcept {
    allocation_ = std::move(other.allocation_);
    data_ = std::exchange(other.data_, nullptr);
    count_ = std::exchange(other.count_, 0);
    ranks_ = std::exchange(other.ranks_, 0);
    std::copy(other.peers_, other.peers_ + max_window_ranks, peers_);
    return *this;
  }

  T* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return count_; }
  std::span<T> span() const noexcept { return {data_, count_}; }
  T* begin() const noexcept { return data_; }
  T* end() const noexcept { return data_ + count_; }
  T& operator[](std::size_t i) const noexcept { return data_[i]; }

  /// [rank] where this rank (its GPU, if it has one) reaches that rank's elements; for this rank it is data(). Who
  /// reads or writes a peer's elements has to synchronize with the peer: comm.barrier(), or signals.
  std::span<T* const> peers() const noexcept { return {peers_, ranks_}; }
  /// The same array in memory of the GPU, for kernels that index it by rank. It lives as long as the buffer.
  T* const* device_peers() const noexcept
    requires requires(const Allocation& a) { a->device_peers(); }
  {
    return data_ == nullptr ? nullptr : static_cast<T* const*>(allocation_->device_peers());
  }

  /// [rank] where this rank's GPU reaches that rank's signal pad: signal_pad_words words, which are this buffer's alone
  /// and zero at first. `Communicator::device_signals` has them too, with a protocol whose waits are bounded.
  std::span<std::uint32_t* const> signal_pads() const noexcept
    requires requires(const Allocation& a) { a->signal_pads(); }
  {
    return data_ == nullptr ? std::span<std::uint32_t* const>() : allocation_->signal_pads();
  }
  /// The same array in memory of the GPU.
  std::uint32_t* const* device_signal_pads() const noexcept
    requires requires(const Allocation& a) { a->device_signal_pads(); }
  {
    return data_ == nullptr ? nullptr : allocation_->device_signal_pads();
  }

  /// The number of the allocation among its communicator's, as messages have it: from 1; 0 if there is none.
  std::uint64_t serial() const noexcept { return data_ == nullptr ? 0 : allocation_->window().serial; }

 private:
  Allocation allocation_{};
  T* data_ = nullptr;
  std::size_t count_ = 0;
  std::size_t ranks_ = 0;
  T* peers_[max_window_ranks] = {};
};

}  // namespace allfold
