// SPDX-License-Identifier: Apache-2.0

#include "subject.hpp"

namespace bench {

std::unique_ptr<Subject> make_subject(Comm& comm, const Plan& plan) {
  const auto of = [&]<class T, class Op>(T, Op op) -> std::unique_ptr<Subject> {
    return std::make_unique<SubjectOf<T, Op>>(comm, plan, op);
  };
  if (plan.op == Operator::max) return of(float{}, allfold::max);
  if (plan.op == Operator::avg) return of(float{}, allfold::avg);
  switch (plan.type) {
    case ElementType::float32: break;
    case ElementType::float64: return of(double{}, allfold::sum);
    case ElementType::int32: return of(std::int32_t{}, allfold::sum);
    case ElementType::float16: return of(allfold::float16{}, allfold::sum);
    case ElementType::bfloat16: return of(allfold::bfloat16{}, allfold::sum);
  }
  return of(float{}, allfold::sum);
}

}  // namespace bench
