// SPDX-License-Identifier: Apache-2.0

#include "subject.cuh"

namespace bench {

std::unique_ptr<Subject> make_float_subject(std::shared_ptr<Gpu> gpu, const allfold::Environment& environment,
                                            allfold::TcpStore& store) {
  return std::make_unique<CudaSubject<float>>(std::move(gpu), environment, store);
}

}  // namespace bench
