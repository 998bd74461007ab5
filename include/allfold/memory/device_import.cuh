// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>
#include <allfold/memory/cuda_driver.cuh>
#include <allfold/memory/device_pointer.cuh>

namespace allfold {

/// What a rank tells the others of memory of its own that it wants them to reach. Plain bytes.
struct MemoryOffer {
  std::uint64_t known = 0;       ///< the serial of a registration of the same range that still stands; 0: there is none
  std::uint64_t address = 0;     ///< for threads of the same process
  std::uint64_t offset = 0;      ///< into the allocation of cudaMalloc that `handle` stands for
  std::uint64_t allocation = 0;  ///< which of its process's allocations that is
  cudaIpcMemHandle_t handle = {};
};

/// Describes [pointer, pointer + bytes) of cudaMalloc to other ranks. `to_processes`: some of them are other processes.
/// @throws UsageError if it is no memory that CUDA's IPC can share.
ALLFOLD_COLD inline MemoryOffer offer_memory(const Where& where, const CudaDriver& driver, int device, void* pointer,
                                             std::size_t bytes, bool to_processes) {
  const auto refuse = [&](TextPieces what) {
    throw UsageError(where, {"the range is ", concat(what), "; expected memory of cudaMalloc on device ", device,
                             "; try cudaMalloc, or allocate"});
  };
  if (pointer == nullptr || bytes == 0) refuse({pointer == nullptr ? "null" : "empty"});
  const DevicePointer memory = DevicePointer::of(driver, pointer);
  using Kind = DevicePointer::Kind;
  if (memory.kind == Kind::foreign || memory.kind == Kind::pinned) refuse({"memory of the host"});
  if (memory.kind == Kind::managed) refuse({"managed memory"});
  if (memory.kind == Kind::device && memory.device != device) refuse({"memory of device ", memory.device});

  std::uint64_t base = 0;
  std::uint64_t size = 0;
  std::uint64_t shareable = 0;
  MemoryOffer offer{.address = reinterpret_cast<std::uintptr_t>(pointer)};
  CUpointer_attribute attributes[] = {CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, CU_POINTER_ATTRIBUTE_RANGE_SIZE,
                                      CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, CU_POINTER_ATTRIBUTE_BUFFER_ID};
  void* answers[] = {&base, &size, &shareable, &offer.allocation};
  driver.check(where, driver.pointer_attributes(4, attributes, answers, offer.address),
               {"CUDA does not say what the memory of the range is"});
  if (shareable == 0) refuse({"memory that CUDA cannot share by IPC, as that of cudaMallocAsync or cuMemMap"});
  offer.offset = offer.address - base;
  if (bytes > size - offer.offset) {
    refuse({bytes, " bytes, of which the allocation that it begins in holds ", size - offer.offset});
  }
  if (to_processes) {
    check_cuda(where, cudaIpcGetMemHandle(&offer.handle, reinterpret_cast<void*>(base)),
               {"memory of device ", device, " could not be shared by IPC; try allocate"});
  }
  return offer;
}

/// Memory of another process's cudaMalloc, mapped for one device of this one. Unmapping it is this process's affair
/// alone; but the other must not free it before.
class ImportedMemory {
 public:
  ImportedMemory(const Where& where, int device, const cudaIpcMemHandle_t& handle, int rank) : device_(device) {
    check_cuda(
        where, cudaIpcOpenMemHandle(&data_, handle, cudaIpcMemLazyEnablePeerAccess),
        {"the memory of rank ", rank, " could not be mapped; expected GPUs with peer access, and memory that no ",
         "other communicator of this process maps; see nvidia-smi topo -p2p w, or try allocate"});
  }
  ImportedMemory(const ImportedMemory&) = delete;
  ImportedMemory& operator=(const ImportedMemory&) = delete;
  ~ImportedMemory() {
    const DeviceGuard guard(device_);
    static_cast<void>(cudaIpcCloseMemHandle(data_));
  }

  char* data() const noexcept { return static_cast<char*>(data_); }

 private:
  void* data_ = nullptr;
  int device_;
};

/// What a rank has imported and still uses: two ranges of one allocation are imported once, for some drivers refuse the
/// second time.
class ImportedMemories {
 public:
  std::shared_ptr<ImportedMemory> get(const Where& where, int device, int rank, const MemoryOffer& offer) {
    std::erase_if(entries_, [](const Entry& e) { return e.memory.expired(); });
    for (const Entry& e : entries_) {
      if (e.rank == rank && e.allocation == offer.allocation) return e.memory.lock();
    }
    auto memory = std::make_shared<ImportedMemory>(where, device, offer.handle, rank);
    entries_.push_back({rank, offer.allocation, memory});
    return memory;
  }

 private:
  struct Entry {
    int rank;
    std::uint64_t allocation;
    std::weak_ptr<ImportedMemory> memory;
  };

  std::vector<Entry> entries_;
};

/// Lets `device`, which is current, reach what other threads of this process have from cudaMalloc on `peer_device`.
ALLFOLD_COLD inline void enable_peer_access(const Where& where, int device, int peer_device, int rank) {
  if (peer_device == device) return;
  const cudaError_t error = cudaDeviceEnablePeerAccess(peer_device, 0);
  if (error == cudaErrorPeerAccessAlreadyEnabled) {
    static_cast<void>(cudaGetLastError());
  } else {
    check_cuda(where, error,
               {"device ", device, " cannot reach memory of device ", peer_device, ", which rank ", rank,
                " is on; expected GPUs with peer access; see nvidia-smi topo -p2p w"});
  }
}

}  // namespace allfold
