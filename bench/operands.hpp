// SPDX-License-Identifier: Apache-2.0
#pragma once

/// What CPU ranks compute on: memory, values whose fold is known, and the element types that the program is built for.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include <allfold/op/bfloat16.hpp>
#include <allfold/op/float16.hpp>
#include <allfold/op/operators.hpp>
#include <allfold/op/reduction.hpp>

#include "subject.hpp"

namespace bench {

/// Memory of the rank's own, at the start of a page.
template <class T>
class PrivateMemory {
 public:
  explicit PrivateMemory(std::size_t count)
      : data_(static_cast<T*>(std::aligned_alloc(4096, (count * sizeof(T) + 4095) / 4096 * 4096))) {
    if (data_ == nullptr) throw std::bad_alloc();
    std::uninitialized_fill_n(data_.get(), count, T{});
  }
  T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::unique_ptr<T, Free> data_;
};

template <class T>
T from_float(float x) {
  return static_cast<T>(x);
}
template <class T>
auto bits(const T& x) {
  return std::bit_cast<std::array<std::byte, sizeof(T)>>(x);
}

/// What a rank contributes. Where algorithms fix the order of a fold, sums may round.
template <class T>
T operand(int rank, std::size_t i, bool whole_numbers) {
  const auto hash = static_cast<std::uint32_t>((i + 1) * 2654435761U + static_cast<std::uint32_t>(rank) * 2246822519U);
  if (whole_numbers) return from_float<T>(static_cast<float>(hash >> 28) - 8.0F);
  return from_float<T>((static_cast<float>(hash >> 20) - 2048.0F) * 0.0371F);
}

/// The fold of all ranks' operands.
template <class T, class Op>
T folded_operand(Op op, int world_size, std::size_t i, bool whole_numbers) {
  const allfold::Reduction<Op, T> reduction{op};
  auto folded = reduction.lift(operand<T>(0, i, whole_numbers));
  for (int rank = 1; rank < world_size; ++rank) folded = reduction.merge(folded, operand<T>(rank, i, whole_numbers));
  return reduction.finish(folded, world_size);
}

/// `make(element, operator)` for the type and the operator of the plan.
template <class Make>
std::unique_ptr<Subject> for_elements(const Plan& plan, const Make& make) {
  if (plan.op == Operator::max) return make(float{}, allfold::max);
  if (plan.op == Operator::avg) return make(float{}, allfold::avg);
  switch (plan.type) {
    case ElementType::float32: break;
    case ElementType::float64: return make(double{}, allfold::sum);
    case ElementType::int32: return make(std::int32_t{}, allfold::sum);
    case ElementType::float16: return make(allfold::float16{}, allfold::sum);
    case ElementType::bfloat16: return make(allfold::bfloat16{}, allfold::sum);
  }
  return make(float{}, allfold::sum);
}

}  // namespace bench
