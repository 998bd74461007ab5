// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <allfold/base/cuda_check.cuh>
#include <allfold/base/unique_fd.hpp>
#include <allfold/memory/cuda_driver.cuh>
#include <allfold/memory/descriptor_exchange.hpp>
#include <allfold/memory/window.hpp>
#include <allfold/policy/meeting.hpp>

namespace allfold {

/// Owns physical memory of some GPU, mapped for one device of this process. The memory lives as long as any process
/// has it mapped.
class DeviceMemory {
 public:
  DeviceMemory(const CudaDriver& driver, int device) noexcept : driver_(driver), device_(device) {}
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() {
    const DeviceGuard guard(device_);
    if (mapped_) driver_.unmap(address_, bytes_);
    if (address_ != 0) driver_.free_address(address_, bytes_);
    if (handle_ != 0) driver_.release(handle_);
  }

  void* data() const noexcept { return reinterpret_cast<void*>(address_); }

  /// Makes memory of the device that other processes can map: `bytes`, rounded up to whole pages of the device.
  /// @throws CudaError without room for it.
  ALLFOLD_COLD void create(const Where& where, std::size_t bytes) {
    CUmemAllocationProp properties = {};
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    properties.location = location();
    std::size_t page = 0;
    driver_.check(where, driver_.granularity(&page, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                  {"the page size of device ", device_, " is not known"});
    bytes_ = (bytes + page - 1) / page * page;
    driver_.check(where, driver_.create(&handle_, bytes_, &properties, 0),
                  {"device ", device_, " has no ", bytes_, " bytes for symmetric memory; try a smaller count or ",
                   "buffer_bytes"});
    map(where);
  }

  /// Maps memory that another rank made, from the descriptor that it sent.
  ALLFOLD_COLD void import(const Where& where, int fd, std::size_t bytes, int rank) {
    driver_.check(where,
                  driver_.import_handle(&handle_, reinterpret_cast<void*>(static_cast<std::intptr_t>(fd)),
                                        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
                  {"the memory of rank ", rank, " could not be imported"});
    bytes_ = bytes;
    map(where);
  }

  /// A descriptor by which other ranks import this memory.
  ALLFOLD_COLD UniqueFd descriptor(const Where& where) const {
    int fd = -1;
    driver_.check(where, driver_.export_handle(&fd, handle_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                  {"memory of device ", device_, " could not be exported"});
    return UniqueFd(fd);
  }

  /// In bytes; whole pages.
  std::size_t size() const noexcept { return bytes_; }

 private:
  CUmemLocation location() const noexcept {
    CUmemLocation place = {};
    place.type = CU_MEM_LOCATION_TYPE_DEVICE;
    place.id = device_;
    return place;
  }

  void map(const Where& where) {
    driver_.check(where, driver_.reserve(&address_, bytes_, 0, 0, 0), {"no addresses for ", bytes_, " bytes"});
    driver_.check(where, driver_.map(address_, bytes_, 0, handle_, 0), {"could not map ", bytes_, " bytes"});
    mapped_ = true;
    CUmemAccessDesc access = {};
    access.location = location();
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    driver_.check(
        where, driver_.set_access(address_, bytes_, &access, 1),
        {"device ", device_, " cannot reach a peer's memory; expected GPUs linked by NVLink, or by PCIe with ",
         "peer access; see nvidia-smi topo -m"});
  }

  CudaDriver driver_;
  int device_;
  CUmemGenericAllocationHandle handle_ = 0;
  CUdeviceptr address_ = 0;
  std::size_t bytes_ = 0;
  bool mapped_ = false;
};

/// One part of GPU memory per rank, all of them mapped for this rank's device.
struct DeviceParts {
  std::unique_ptr<DeviceMemory> part[max_window_ranks];

  Window window(std::size_t bytes, std::uint64_t serial, int world_size) const noexcept {
    Window result;
    for (int r = 0; r < world_size; ++r) result.at[r] = part[r]->data();
    result.bytes = bytes;
    result.serial = serial;
    return result;
  }
};

/// Makes the parts, zero at first: each rank makes its own and passes a descriptor of it to all, be they processes or
/// threads. `addresses`: [world_size]; `serial` tells this exchange from others.
ALLFOLD_COLD inline DeviceParts share_device_memory(Meeting& meeting, const CudaDriver& driver, int device,
                                                    DescriptorExchange& exchange,
                                                    const std::vector<ExchangeAddress>& addresses, std::uint32_t serial,
                                                    std::size_t bytes) {
  const Where where = meeting.where();
  const int me = meeting.rank();
  DeviceParts parts;
  parts.part[me] = std::make_unique<DeviceMemory>(driver, device);
  DeviceMemory& mine = *parts.part[me];
  mine.create(where, bytes);
  check_cuda(where, cudaMemset(mine.data(), 0, mine.size()), {"symmetric memory could not be cleared"});
  check_cuda(where, cudaDeviceSynchronize(), {"symmetric memory could not be cleared"});
  {
    const UniqueFd fd = mine.descriptor(where);
    for (int r = 0; r < meeting.world_size(); ++r) {
      if (r == me) continue;
      exchange.send(where, addresses[static_cast<std::size_t>(r)], exchange_tag(serial, me), r, fd.get(),
                    meeting.deadline());
    }
  }
  // Whoever failed to make its part says so here, before anyone waits for its descriptor.
  meeting.barrier("share device memory");
  for (int r = 0; r < meeting.world_size(); ++r) {
    if (r == me) continue;
    const UniqueFd theirs = exchange.receive(where, exchange_tag(serial, r), r, meeting.deadline());
    parts.part[r] = std::make_unique<DeviceMemory>(driver, device);
    parts.part[r]->import(where, theirs.get(), mine.size(), r);
  }
  meeting.barrier("device memory is shared");
  return parts;
}

}  // namespace allfold
