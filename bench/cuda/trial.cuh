// SPDX-License-Identifier: Apache-2.0
#pragma once

/// One case on a GPU: how calls are captured, launched, timed and compared, the same for every library.

#include <functional>
#include <vector>

#include "../subject.hpp"
#include "gpu.cuh"
#include "operands.cuh"

namespace bench {

/// What a library offers to be timed: one all-reduce from `in` to `out`, which may be the same.
struct CudaCall {
  void* in = nullptr;
  void* out = nullptr;
  Match match = Match::bits;
  std::function<void(cudaStream_t)> enqueue{};
  std::function<void()> status{};  ///< throws what went wrong in a call that was enqueued earlier
};

/// Time is what passes on the rank's GPU between two events around a batch.
class CudaTrial final : public Trial {
 public:
  CudaTrial(Gpu& gpu, Mode mode, const Operands& operands, allfold::Algorithm algorithm, CudaCall call)
      : gpu_(gpu), mode_(mode), operands_(operands), algorithm_(algorithm), call_(std::move(call)) {}

  allfold::Algorithm algorithm() const override { return algorithm_; }
  bool start() override;
  std::vector<Sample> turn(const Turn& turn) override;
  bool verify() override;

 private:
  void capture();
  int depth() const;
  std::size_t bytes() const { return operands_.count * size_of(operands_.type); }
  bool correct();
  void spoil(void* data);
  void wait();
  /// Enqueues at least so many calls; returns how many.
  long enqueue(long calls);

  Gpu& gpu_;
  Mode mode_;
  Operands operands_;
  allfold::Algorithm algorithm_;
  CudaCall call_;
  CudaGraphExec graph_;
  double cpu_us_ = 0;  ///< of a call, as enqueue() found last
};

}  // namespace bench
