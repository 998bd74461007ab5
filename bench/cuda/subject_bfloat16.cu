// SPDX-License-Identifier: Apache-2.0

#include <cuda_bf16.h>

#include "subject.cuh"

namespace bench {

std::unique_ptr<Subject> make_bfloat16_subject(std::shared_ptr<Gpu> gpu, const allfold::Environment& environment,
                                               allfold::TcpStore& store) {
  return std::make_unique<CudaSubject<__nv_bfloat16>>(std::move(gpu), environment, store);
}

}  // namespace bench
