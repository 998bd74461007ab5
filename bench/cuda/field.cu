// SPDX-License-Identifier: Apache-2.0

#include "field.hpp"

#include "subjects.cuh"

namespace bench {
namespace {

std::unique_ptr<Subject> make_subject(std::shared_ptr<Gpu> gpu, const allfold::Environment& environment,
                                      allfold::TcpStore& store) {
  switch (gpu->plan().type) {
    case ElementType::float16: return make_float16_subject(std::move(gpu), environment, store);
    case ElementType::bfloat16: return make_bfloat16_subject(std::move(gpu), environment, store);
    default: return make_float_subject(std::move(gpu), environment, store);
  }
}

}  // namespace

Field cuda_field(const allfold::Environment& environment, const Plan& plan, Comm& comm, allfold::TcpStore& store) {
  const auto gpu = std::make_shared<Gpu>(environment, plan, comm);
  Field field{.own = make_subject(gpu, environment, store), .peers = {}};
  for (const std::string& name : plan.peers) {
    field.peers.push_back(make_nccl_subject(gpu, name == "nccl_symm", store));
  }
  return field;
}

}  // namespace bench
