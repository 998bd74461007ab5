// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <allfold/base/cuda_check.cuh>
#include <allfold/base/unique_fd.hpp>
#include <allfold/memory/cuda_driver.cuh>

namespace allfold {

/// How memory of a GPU is handed to other processes; settled when it is made.
enum class HandleType : std::uint8_t {
  descriptor,  ///< a file descriptor, over a Unix socket
  fabric,      ///< 64 bytes, by any way
};

using FabricHandle = CUmemFabricHandle;

/// Owns physical memory of some GPU, mapped for one device of this process. The memory lives as long as any process
/// has it mapped.
class DeviceMemory {
 public:
  DeviceMemory(const CudaDriver& driver, int device, HandleType type = HandleType::descriptor) noexcept
      : driver_(driver), device_(device), type_(type) {}
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() {
    const DeviceGuard guard(device_);
    if (mapped_) driver_.unmap(address_, bytes_);
    if (address_ != 0) driver_.free_address(address_, bytes_);
    if (handle_ != 0) driver_.release(handle_);
  }

  void* data() const noexcept { return reinterpret_cast<void*>(address_); }
  /// In bytes; whole pages.
  std::size_t size() const noexcept { return bytes_; }

  /// Makes memory of the device that other processes can map: `bytes`, rounded up to whole pages of the device.
  /// @throws CudaError without room for it.
  ALLFOLD_COLD void create(const Where& where, std::size_t bytes) {
    const CUmemAllocationProp properties = this->properties();
    std::size_t page = 0;
    driver_.check(where, driver_.granularity(&page, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                  {"the page size of device ", device_, " is not known"});
    bytes_ = (bytes + page - 1) / page * page;
    driver_.check(where, driver_.create(&handle_, bytes_, &properties, 0),
                  {"device ", device_, " has no ", bytes_, " bytes for symmetric memory; try a smaller count or ",
                   "buffer_bytes"});
    map(where);
  }

  /// A descriptor by which other ranks import this memory.
  ALLFOLD_COLD UniqueFd descriptor(const Where& where) const {
    int fd = -1;
    export_to(where, &fd);
    return UniqueFd(fd);
  }
  ALLFOLD_COLD FabricHandle fabric_handle(const Where& where) const {
    FabricHandle handle = {};
    export_to(where, &handle);
    return handle;
  }

  /// Maps memory that another rank made, from what it sent.
  ALLFOLD_COLD void import(const Where& where, int fd, std::size_t bytes, int rank) {
    import_from(where, reinterpret_cast<void*>(static_cast<std::intptr_t>(fd)), bytes, rank);
  }
  ALLFOLD_COLD void import(const Where& where, FabricHandle handle, std::size_t bytes, int rank) {
    import_from(where, &handle, bytes, rank);
  }

  /// Makes a page, not mapped, to see whether this process can make memory with a fabric handle; tells the handle.
  ALLFOLD_COLD bool try_fabric_page(FabricHandle& handle) noexcept {
    CUdevice device = 0;
    int offered = 0;
    const CUmemAllocationProp properties = this->properties();
    const auto good = [](CUresult result) { return result == CUDA_SUCCESS; };
    return good(driver_.device(&device, device_)) &&
           good(driver_.device_attribute(&offered, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED, device)) &&
           offered != 0 && good(driver_.granularity(&bytes_, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM)) &&
           good(driver_.create(&handle_, bytes_, &properties, 0)) &&
           good(driver_.export_handle(&handle, handle_, driver_type(), 0));
  }
  /// Whether this process can import such a page.
  ALLFOLD_COLD bool try_import(FabricHandle handle) noexcept {
    return driver_.import_handle(&handle_, &handle, driver_type()) == CUDA_SUCCESS;
  }

 private:
  CUmemAllocationHandleType driver_type() const noexcept {
    return type_ == HandleType::fabric ? CU_MEM_HANDLE_TYPE_FABRIC : CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  }

  CUmemLocation location() const noexcept {
    CUmemLocation place = {};
    place.type = CU_MEM_LOCATION_TYPE_DEVICE;
    place.id = device_;
    return place;
  }

  CUmemAllocationProp properties() const noexcept {
    CUmemAllocationProp properties = {};
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.requestedHandleTypes = driver_type();
    properties.location = location();
    return properties;
  }

  void export_to(const Where& where, void* handle) const {
    driver_.check(where, driver_.export_handle(handle, handle_, driver_type(), 0),
                  {"memory of device ", device_, " could not be exported"});
  }

  void import_from(const Where& where, void* handle, std::size_t bytes, int rank) {
    driver_.check(where, driver_.import_handle(&handle_, handle, driver_type()),
                  {"the memory of rank ", rank, " could not be imported"});
    bytes_ = bytes;
    map(where);
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
  HandleType type_;
  CUmemGenericAllocationHandle handle_ = 0;
  CUdeviceptr address_ = 0;
  std::size_t bytes_ = 0;
  bool mapped_ = false;
};

}  // namespace allfold
