// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>
#include <allfold/memory/device_import.cuh>
#include <allfold/memory/device_sharing.cuh>
#include <allfold/memory/registry.hpp>
#include <allfold/memory/signal_pad.hpp>
#include <allfold/memory/window.hpp>

namespace allfold {

/// One symmetric allocation of GPU ranks, or a registration of memory that users have. Peers keep what they map,
/// whoever lets go first; but what users registered is gone once they free it.
class NvlinkAllocation : public std::enable_shared_from_this<NvlinkAllocation> {
 public:
  using Registry = RangeRegistry<NvlinkAllocation>;

  /// What this process maps of other processes' cudaMalloc.
  using Imports = std::vector<std::shared_ptr<ImportedMemory>>;

  /// Whose part of it this is.
  struct Owner {
    int rank;
    int world_size;
    int device;
    cudaStream_t stream;
    std::shared_ptr<Registry> registry;
  };

  /// `parts` have a SignalPart each, `signals_offset` bytes in, and the window's memory before it, unless users own
  /// that.
  NvlinkAllocation(const Where& where, Owner owner, DeviceParts parts, const Window& window, std::size_t signals_offset,
                   Imports imports = {})
      : parts_(std::move(parts)),
        imports_(std::move(imports)),
        owner_(std::move(owner)),
        window_(window),
        data_(window.at[owner_.rank]),
        registered_(signals_offset == 0) {
    const auto signals = [&](int r) {
      return reinterpret_cast<SignalPart*>(static_cast<char*>(parts_.part[r]->data()) + signals_offset);
    };
    for (int r = 0; r < owner_.world_size; ++r) pads_[r] = signals(r)->pad;
    mine_ = signals(owner_.rank);
    const auto write_table = [&](void* table, const void* entries) {
      check_cuda(where,
                 cudaMemcpyAsync(table, entries, sizeof(void*) * max_window_ranks, cudaMemcpyDefault, owner_.stream),
                 {"the table of peers could not be written"});
    };
    write_table(mine_->peers, window_.at);
    write_table(mine_->pads, pads_);
    check_cuda(where, cudaStreamSynchronize(owner_.stream), {"the table of peers could not be written"});
    owner_.registry->insert(where, data_, window_.bytes, *this);
  }
  NvlinkAllocation(const NvlinkAllocation&) = delete;
  NvlinkAllocation& operator=(const NvlinkAllocation&) = delete;
  /// Waits for the device, as cudaFree does: a kernel may still use the memory.
  ~NvlinkAllocation() {
    owner_.registry->erase(data_);
    const DeviceGuard guard(owner_.device);
    static_cast<void>(cudaDeviceSynchronize());
  }

  void* data() const noexcept { return data_; }
  /// Every rank's part, at the addresses by which this rank's GPU reaches it.
  const Window& window() const noexcept { return window_; }
  /// The memory is users', so that nothing lies before the pads.
  bool is_registered() const noexcept { return registered_; }
  /// [rank] where this rank's GPU reaches each pad.
  std::span<std::uint32_t* const> signal_pads() const noexcept {
    return {pads_, static_cast<std::size_t>(owner_.world_size)};
  }
  /// Both arrays in memory of the GPU.
  const void* device_peers() const noexcept { return mine_->peers; }
  std::uint32_t* const* device_signal_pads() const noexcept { return mine_->pads; }

 private:
  DeviceParts parts_;
  Imports imports_;
  Owner owner_;
  Window window_;
  void* data_;
  std::uint32_t* pads_[max_window_ranks] = {};
  SignalPart* mine_ = nullptr;
  bool registered_;
};

}  // namespace allfold
