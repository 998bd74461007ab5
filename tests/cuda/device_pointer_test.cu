// SPDX-License-Identifier: Apache-2.0
// What the library makes of CUDA's answers about memory: on made-up answers, so that these cases need no GPU.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include <cuda.h>
#include <doctest/doctest.h>

#include <allfold/memory/device_import.cuh>
#include <allfold/memory/device_pointer.cuh>

#include <support/ranks.hpp>

using allfold::CudaDriver;
using allfold::DevicePointer;
using allfold::UsageError;
using allfold_test::expect_contains;
using Kind = allfold::DevicePointer::Kind;

namespace {

/// The memory of one address, and all that CUDA says of it.
struct Memory {
  CUresult result = CUDA_SUCCESS;
  unsigned type = CU_MEMORYTYPE_DEVICE;
  bool managed = false;
  int device = 0;
  bool shareable = true;
  std::uint64_t base = 0x7000000;
  std::uint64_t size = 4096;
  std::uint64_t id = 77;
  bool bools_are_bytes = false;  ///< which the documentation leaves open
};

Memory now;
int calls = 0;

CudaDriver driver_of(const Memory& memory) {
  now = memory;
  calls = 0;
  CudaDriver driver;
  driver.error_name = [](CUresult, const char** name) {
    *name = "CUDA_ERROR_MADE_UP";
    return CUDA_SUCCESS;
  };
  driver.pointer_attributes = [](unsigned count, CUpointer_attribute* attributes, void** answers, CUdeviceptr) {
    ++calls;
    if (now.result != CUDA_SUCCESS) return now.result;
    const auto answer_bool = [](void* to, bool value) {
      const int word = value ? 1 : 0;
      std::memcpy(to, &word, now.bools_are_bytes ? 1 : sizeof word);
    };
    for (unsigned i = 0; i < count; ++i) {
      switch (attributes[i]) {
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: std::memcpy(answers[i], &now.type, sizeof now.type); break;
        case CU_POINTER_ATTRIBUTE_IS_MANAGED: answer_bool(answers[i], now.managed); break;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: std::memcpy(answers[i], &now.device, sizeof now.device); break;
        case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: std::memcpy(answers[i], &now.base, sizeof now.base); break;
        case CU_POINTER_ATTRIBUTE_RANGE_SIZE: std::memcpy(answers[i], &now.size, sizeof now.size); break;
        case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE: answer_bool(answers[i], now.shareable); break;
        case CU_POINTER_ATTRIBUTE_BUFFER_ID: std::memcpy(answers[i], &now.id, sizeof now.id); break;
        default: return CUDA_ERROR_INVALID_VALUE;
      }
    }
    return CUDA_SUCCESS;
  };
  return driver;
}

void* at(std::uint64_t address) { return reinterpret_cast<void*>(address); }

/// What a call of a rank on device 2 says to memory of that kind; empty: nothing.
std::string refusal_of_call(const Memory& memory, bool reaches_pageable = false) {
  const DevicePointer pointer = DevicePointer::of(driver_of(memory), at(memory.base));
  CHECK(calls == 1);
  try {
    allfold::check_reached(allfold::Where("all_reduce", 1, 4), "input", pointer, 2, reaches_pageable);
  } catch (const UsageError& error) {
    return error.what();
  }
  return {};
}

/// The same of a registration of `bytes` at `address`.
std::string refusal_of_registration(const Memory& memory, void* address, std::size_t bytes) {
  try {
    allfold::offer_memory(allfold::Where("register_buffer", 1, 4), driver_of(memory), 2, address, bytes, false);
  } catch (const UsageError& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("memory that a GPU reaches is taken") {
  CHECK(refusal_of_call({.device = 2}) == "");
  CHECK(refusal_of_call({.type = CU_MEMORYTYPE_HOST, .device = 0}) == "");
  CHECK(refusal_of_call({.managed = true, .device = 0}) == "");
  CHECK(refusal_of_call({.managed = true, .device = 0, .bools_are_bytes = true}) == "");
  CHECK(refusal_of_call({.type = 0, .device = -2}, true) == "");
  // A thread that has not used CUDA yet gets no answer; the launch will tell.
  CHECK(refusal_of_call({.result = CUDA_ERROR_INVALID_CONTEXT}) == "");
}

TEST_CASE("memory that it does not reach is refused") {
  CHECK(
      refusal_of_call({.type = 0, .device = -2}) ==
      "allfold: rank 1/4: all_reduce: the input is host memory that the GPU cannot reach; expected memory of device 2; "
      "try cudaMalloc on that device, or allocate");
  expect_contains(refusal_of_call({.device = 3}), {"the input is memory of device 3; expected memory of device 2"});
  expect_contains(refusal_of_call({.device = 3}, true), {"memory of device 3"});
}

TEST_CASE("memory of cudaMalloc is offered by its allocation and the way into it") {
  const Memory memory{.device = 2};
  const allfold::MemoryOffer offer =
      allfold::offer_memory("test", driver_of(memory), 2, at(memory.base + 96), 4000, false);
  CHECK(offer.known == 0);
  CHECK(offer.address == memory.base + 96);
  CHECK(offer.offset == 96);
  CHECK(offer.allocation == 77);
}

TEST_CASE("what CUDA's IPC cannot share is refused") {
  const Memory good{.device = 2};
  CHECK(refusal_of_registration(good, at(good.base), 4096) == "");
  CHECK(refusal_of_registration(good, at(good.base + 4095), 1) == "");
  expect_contains(refusal_of_registration(good, nullptr, 4),
                  {"register_buffer: the range is null; expected memory of cudaMalloc on device 2"});
  expect_contains(refusal_of_registration(good, at(good.base), 0), {"the range is empty"});
  expect_contains(refusal_of_registration(good, at(good.base), 4097), {"4097 bytes", "holds 4096"});
  expect_contains(refusal_of_registration(good, at(good.base + 96), SIZE_MAX), {"holds 4000"});
  expect_contains(refusal_of_registration({.type = 0, .device = -2}, at(16), 4), {"memory of the host"});
  expect_contains(refusal_of_registration({.type = CU_MEMORYTYPE_HOST, .device = 2}, at(16), 4),
                  {"memory of the host"});
  expect_contains(refusal_of_registration({.managed = true, .device = 2}, at(16), 4), {"managed memory"});
  expect_contains(refusal_of_registration({.device = 0}, at(good.base), 4), {"memory of device 0", "on device 2"});
  expect_contains(refusal_of_registration({.device = 2, .shareable = false}, at(good.base), 4),
                  {"cannot share by IPC", "cudaMallocAsync"});
}

TEST_CASE("what CUDA does not answer is CUDA's error") {
  CHECK_THROWS_AS(allfold::offer_memory("test", driver_of({.result = CUDA_ERROR_DEINITIALIZED}), 2, at(16), 4, false),
                  allfold::CudaError);
}
