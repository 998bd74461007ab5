// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include <unistd.h>

#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>
#include <allfold/memory/mapping.hpp>

namespace allfold {

/// A mapping that GPUs reach. A forked child has it too, and cannot use CUDA.
struct ShownMapping {
  std::shared_ptr<Mapping> mapping;
  int process = ::getpid();
  bool shown = false;

  explicit ShownMapping(std::shared_ptr<Mapping> given) : mapping(std::move(given)) {}
  ShownMapping(const ShownMapping&) = delete;
  ShownMapping& operator=(const ShownMapping&) = delete;
  ~ShownMapping() {
    if (shown && process == ::getpid()) static_cast<void>(cudaHostUnregister(mapping->data()));
  }
};

/// Lets all GPUs of this process reach memory of the host, as long as anyone holds what is returned: of ranks that are
/// threads, a late one's kernel may write there after the rank that made it has gone.
ALLFOLD_COLD inline std::shared_ptr<Mapping> show_to_gpus(const Where& where, std::shared_ptr<Mapping> mapping) {
  const auto holder = std::make_shared<ShownMapping>(std::move(mapping));
  Mapping* const shown = holder->mapping.get();
  check_cuda(where, cudaHostRegister(shown->data(), shown->size(), cudaHostRegisterPortable | cudaHostRegisterMapped),
             {"memory of the host could not be shown to the GPU"});
  holder->shown = true;
  return {holder, shown};
}

}  // namespace allfold
