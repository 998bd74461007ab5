// SPDX-License-Identifier: Apache-2.0
// How ranks agree on fabric handles or descriptors, and share memory by either, on a made-up driver whose memory is
// that of the host: these cases need no GPU. cuda.rendezvous has what the GPUs of the machine do.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <mutex>
#include <string>
#include <vector>

#include <cuda_runtime.h>
#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <allfold/memory/device_sharing.cuh>
#include <allfold/rendezvous.hpp>
#include <allfold/store/hash.hpp>

#include <support/gpu_ranks.cuh>

using namespace std::chrono_literals;
using allfold::CudaDriver;
using allfold::DeviceParts;
using allfold::DeviceSharing;
using allfold::FabricHandle;
using allfold::HandleType;

namespace {

/// What the made-up driver does for one rank. Ranks are threads.
struct Driver {
  bool fabric_supported = true;
  CUresult fabric_create = CUDA_SUCCESS;
  CUresult fabric_export = CUDA_SUCCESS;
  CUresult fabric_import = CUDA_SUCCESS;
};

constexpr std::size_t page = 4096;

thread_local const Driver* driver_of_rank = nullptr;
std::mutex lock;
std::vector<int> memories;  // handles are indices, counted from 1, of files; -1: released
int released = 0;
int fabric_creates = 0;

CUmemGenericAllocationHandle keep(int file) {
  const std::lock_guard guard(lock);
  memories.push_back(file);
  return memories.size();
}
int file_of(CUmemGenericAllocationHandle handle) {
  const std::lock_guard guard(lock);
  return memories.at(handle - 1);
}

CudaDriver made_up_driver() {
  CudaDriver driver;
  driver.error_name = [](CUresult, const char** name) {
    *name = "CUDA_ERROR_MADE_UP";
    return CUDA_SUCCESS;
  };
  driver.device = [](CUdevice* device, int ordinal) {
    *device = ordinal;
    return CUDA_SUCCESS;
  };
  driver.device_attribute = [](int* value, CUdevice_attribute attribute, CUdevice) {
    if (attribute != CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED) return CUDA_ERROR_INVALID_VALUE;
    *value = driver_of_rank->fabric_supported ? 1 : 0;
    return CUDA_SUCCESS;
  };
  driver.granularity = [](std::size_t* bytes, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
    *bytes = page;
    return CUDA_SUCCESS;
  };
  driver.create = [](CUmemGenericAllocationHandle* handle, std::size_t bytes, const CUmemAllocationProp* properties,
                     unsigned long long) {
    if (properties->requestedHandleTypes == CU_MEM_HANDLE_TYPE_FABRIC) {
      const std::lock_guard guard(lock);
      ++fabric_creates;
      if (driver_of_rank->fabric_create != CUDA_SUCCESS) return driver_of_rank->fabric_create;
    }
    const int file = ::memfd_create("memory of a made-up GPU", MFD_CLOEXEC);
    if (file < 0 || ::ftruncate(file, static_cast<off_t>(bytes)) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = keep(file);
    return CUDA_SUCCESS;
  };
  driver.release = [](CUmemGenericAllocationHandle handle) {
    ::close(file_of(handle));
    const std::lock_guard guard(lock);
    memories.at(handle - 1) = -1;
    ++released;
    return CUDA_SUCCESS;
  };
  driver.export_handle = [](void* out, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType type,
                            unsigned long long) {
    const int file = file_of(handle);
    if (type == CU_MEM_HANDLE_TYPE_FABRIC) {
      if (driver_of_rank->fabric_export != CUDA_SUCCESS) return driver_of_rank->fabric_export;
      std::memset(out, 0, sizeof(FabricHandle));
      std::memcpy(out, &file, sizeof file);
    } else {
      *static_cast<int*>(out) = ::dup(file);
    }
    return CUDA_SUCCESS;
  };
  driver.import_handle = [](CUmemGenericAllocationHandle* handle, void* from, CUmemAllocationHandleType type) {
    int file = static_cast<int>(reinterpret_cast<std::intptr_t>(from));
    if (type == CU_MEM_HANDLE_TYPE_FABRIC) {
      if (driver_of_rank->fabric_import != CUDA_SUCCESS) return driver_of_rank->fabric_import;
      std::memcpy(&file, from, sizeof file);
    }
    *handle = keep(::dup(file));
    return CUDA_SUCCESS;
  };
  driver.reserve = [](CUdeviceptr* address, std::size_t bytes, std::size_t, CUdeviceptr, unsigned long long) {
    void* const found = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *address = reinterpret_cast<CUdeviceptr>(found);
    return found == MAP_FAILED ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
  };
  driver.free_address = [](CUdeviceptr address, std::size_t bytes) {
    ::munmap(reinterpret_cast<void*>(address), bytes);
    return CUDA_SUCCESS;
  };
  driver.map = [](CUdeviceptr address, std::size_t bytes, std::size_t, CUmemGenericAllocationHandle handle,
                  unsigned long long) {
    void* const at = ::mmap(reinterpret_cast<void*>(address), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                            file_of(handle), 0);
    return at == MAP_FAILED ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  };
  driver.unmap = [](CUdeviceptr, std::size_t) { return CUDA_SUCCESS; };
  driver.set_access = [](CUdeviceptr, std::size_t, const CUmemAccessDesc*, std::size_t) { return CUDA_SUCCESS; };
  driver.clear = [](void* memory, std::size_t bytes) {
    std::memset(memory, 0, bytes);
    return cudaSuccess;
  };
  return driver;
}

/// One thread for each driver agrees on a handle type, and shares memory by it: every rank writes into every part, and
/// reads what all wrote into its own. `channels`: where the driver's channels are, as far as this process sees.
void agree_and_share(const std::vector<Driver>& drivers, HandleType expected, const char* channels = "/proc") {
  const auto world_size = static_cast<int>(drivers.size());
  allfold::HashStore store;
  allfold_test::over_threads({world_size}, [&](const allfold::Environment& environment) {
    driver_of_rank = &drivers[static_cast<std::size_t>(environment.rank)];
    const allfold::Where where("create", environment.rank, world_size);
    const auto deadline = allfold::Deadline::after(20s);
    allfold::StoreGather gather(store, "test", where, environment.rank, world_size, deadline);
    allfold::in_meeting(where, gather, deadline, false, [&](allfold::Meeting& meeting) {
      DeviceSharing sharing;
      sharing.driver = made_up_driver();
      sharing.device = environment.rank;
      sharing.exchange.emplace(where);
      sharing.addresses = meeting.all_gather("addresses", sharing.exchange->address());
      sharing.type = allfold::agree_on_handle_type(meeting, sharing.driver, sharing.device, channels);
      EXPECT(sharing.type == expected);
      const DeviceParts parts = allfold::share_device_memory(meeting, sharing, 1, 5000);
      for (int r = 0; r < world_size; ++r) {
        EXPECT(parts.part[r]->size() == 2 * page);
        auto* const words = static_cast<int*>(parts.part[r]->data());
        EXPECT(words[environment.rank] == 0);
        words[environment.rank] = 10 * environment.rank + r + 1;
      }
      meeting.barrier("written");
      const auto* const mine = static_cast<const int*>(parts.part[environment.rank]->data());
      for (int r = 0; r < world_size; ++r) EXPECT(mine[r] == 10 * r + environment.rank + 1);
      meeting.barrier("read");
    });
  });
  CHECK(released == static_cast<int>(memories.size()));  // no page that was made for a try is left
}

/// The same where it has to fail on every rank.
template <class Error>
void expect_refusal(const std::vector<Driver>& drivers, std::initializer_list<const char*> parts,
                    const char* channels = "/proc") {
  const auto world_size = static_cast<int>(drivers.size());
  allfold::HashStore store;
  allfold_test::over_threads({world_size}, [&](const allfold::Environment& environment) {
    driver_of_rank = &drivers[static_cast<std::size_t>(environment.rank)];
    const allfold::Where where("create", environment.rank, world_size);
    const auto deadline = allfold::Deadline::after(20s);
    allfold::StoreGather gather(store, "test", where, environment.rank, world_size, deadline);
    const auto agree = [&](allfold::Meeting& meeting) {
      static_cast<void>(allfold::agree_on_handle_type(meeting, made_up_driver(), environment.rank, channels));
    };
    allfold_test::expect_contains(EXPECT_THROWS_AS(allfold::in_meeting(where, gather, deadline, false, agree), Error),
                                  parts);
  });
  CHECK(released == static_cast<int>(memories.size()));
}

}  // namespace

TEST_CASE("fabric handles where every rank offers them and imports all others'") {
  for (const std::size_t ranks : {2, 3, 8}) agree_and_share(std::vector<Driver>(ranks), HandleType::fabric);
}

TEST_CASE("descriptors where one rank's device has no fabric handles") {
  agree_and_share({{}, {.fabric_supported = false}, {}}, HandleType::descriptor);
}

TEST_CASE("descriptors where one rank may not make such memory, or not export it") {
  for (const CUresult result : {CUDA_ERROR_NOT_PERMITTED, CUDA_ERROR_NOT_SUPPORTED, CUDA_ERROR_INVALID_VALUE}) {
    agree_and_share({{}, {}, {.fabric_create = result}}, HandleType::descriptor);
    agree_and_share({{.fabric_export = result}, {}}, HandleType::descriptor);
  }
}

TEST_CASE("descriptors where one rank cannot import the others'") {
  agree_and_share({{}, {.fabric_import = CUDA_ERROR_NOT_PERMITTED}, {}}, HandleType::descriptor);
}

TEST_CASE("without a channel it is not even asked") {
  const int before = fabric_creates;
  agree_and_share({{}, {}}, HandleType::descriptor, "/there/is/no/such/directory");
  CHECK(fabric_creates == before);
}

TEST_CASE("ALLFOLD_HANDLE_TYPE decides") {
  {
    const allfold_test::HandleTypeWish wish("fd");
    const int before = fabric_creates;
    agree_and_share({{}, {}}, HandleType::descriptor);
    CHECK(fabric_creates == before);
  }
  const allfold_test::HandleTypeWish wish("fabric");
  agree_and_share({{}, {}, {}}, HandleType::fabric);
  expect_refusal<allfold::UsageError>({{}, {.fabric_create = CUDA_ERROR_NOT_PERMITTED}},
                                      {"ALLFOLD_HANDLE_TYPE", "rank 1", "IMEX channel in /proc", "try fd"});
  expect_refusal<allfold::UsageError>({{.fabric_import = CUDA_ERROR_NOT_PERMITTED}, {}, {}}, {"rank 2", "try fd"});
  expect_refusal<allfold::UsageError>({{}, {}}, {"rank 0", "no/channels"}, "no/channels");
}

TEST_CASE("nothing but fd and fabric is understood") {
  const allfold_test::HandleTypeWish wish("Fabric");
  expect_refusal<allfold::UsageError>({{}, {}}, {"ALLFOLD_HANDLE_TYPE is \"Fabric\"", "expected fd or fabric"});
}
