// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include <cuda_runtime_api.h>

#include <allfold/algo/fold.hpp>
#include <allfold/algo/message/reduction.hpp>
#include <allfold/base/cuda_arch.cuh>
#include <allfold/exec/cuda_fold.cuh>
#include <allfold/exec/host_reduction.hpp>

namespace allfold {

inline namespace ALLFOLD_ARCH_NAMESPACE {

namespace folding ALLFOLD_HIDDEN {

/// More operands than a FoldPlan has. What goes from one launch to the next are accumulators, so that the order stays
/// that of the operands.
template <class Fold>
struct FoldRun {
  const typename Fold::source* from[MessageReduction::most_enqueued];
  int operands;
  const typename Fold::accumulator* before;  ///< null: the first operand begins
  typename Fold::accumulator* after;         ///< null: the last operand ends
  typename Fold::result* to;
};

ALLFOLD_KERNELS_BEGIN

template <class Fold, int Most>
ALLFOLD_KERNEL void fold_few(const __grid_constant__ Fold fold, const __grid_constant__ FoldPlan<Fold, Most> plan,
                             std::size_t n) {
  fold_block(fold, plan, n, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x),
             static_cast<int>(gridDim.x * blockDim.x));
}

template <class Fold>
ALLFOLD_KERNEL void fold_run(const __grid_constant__ Fold fold, const __grid_constant__ FoldRun<Fold> run,
                             std::size_t n) {
  const std::size_t lanes = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += lanes) {
    auto sum = run.before != nullptr ? run.before[i] : fold.first(run.from[0][i]);
    for (int o = run.before != nullptr ? 0 : 1; o < run.operands; ++o) sum = fold.next(sum, run.from[o][i]);
    if (run.after != nullptr) {
      run.after[i] = sum;
    } else {
      run.to[i] = fold.last(sum);
    }
  }
}

ALLFOLD_KERNELS_END

inline constexpr unsigned fold_threads = 256;

inline unsigned fold_grid(std::size_t lanes) noexcept {
  return static_cast<unsigned>(std::clamp<std::size_t>((lanes + fold_threads - 1) / fold_threads, 1, 1024));
}

template <class Fold, class... Arguments>
cudaError_t launch_fold(void (*kernel)(Fold, Arguments...), std::size_t lanes, cudaStream_t stream, Fold fold,
                        std::type_identity_t<Arguments>... arguments) noexcept {
  void* all[] = {&fold, &arguments...};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(fold_grid(lanes)), dim3(fold_threads), all, 0,
                          stream);
}

template <int Most, class Fold>
cudaError_t enqueue_few(const Fold& fold, const void* const* operands, int count, void* to, std::size_t n,
                        cudaStream_t stream) noexcept {
  FoldPlan<Fold, Most> plan{};
  for (int o = 0; o < count; ++o) plan.from[o] = static_cast<const typename Fold::source*>(operands[o]);
  plan.to[0] = static_cast<typename Fold::result*>(to);
  plan.sources = count;
  plan.targets = 1;
  constexpr std::size_t elems = folds_vectors<Fold> ? Vector<typename Fold::source>::elems : 1;
  return launch_fold(&fold_few<Fold, Most>, n / elems + 1, stream, fold, plan, n);
}

template <class Fold>
cudaError_t enqueue_run(const Fold& fold, const void* const* operands, int count, void* to, std::size_t n, void* room,
                        cudaStream_t stream) noexcept {
  auto* const partials = static_cast<typename Fold::accumulator*>(room);
  for (int begin = 0; begin < count; begin += MessageReduction::most_enqueued) {
    FoldRun<Fold> run{};
    run.operands = std::min(count - begin, MessageReduction::most_enqueued);
    for (int o = 0; o < run.operands; ++o) {
      run.from[o] = static_cast<const typename Fold::source*>(operands[begin + o]);
    }
    run.before = begin == 0 ? nullptr : partials;
    run.after = begin + run.operands < count ? partials : nullptr;
    run.to = static_cast<typename Fold::result*>(to);
    const cudaError_t error = launch_fold(&fold_run<Fold>, n, stream, fold, run, n);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

/// `Few`: up to so many operands are folded by vectors.
template <int Few, class Fold>
cudaError_t enqueue_operands(const Fold& fold, const void* const* operands, int count, void* to, std::size_t n,
                             void* room, cudaStream_t stream) noexcept {
  if (count <= 2) return enqueue_few<2>(fold, operands, count, to, n, stream);
  if constexpr (Few > 2) {
    if (count <= Few) return enqueue_few<Few>(fold, operands, count, to, n, stream);
  }
  return enqueue_run(fold, operands, count, to, n, room, stream);
}

template <class Reduction>
int enqueue_fold(const void* context, FoldKind kind, const void* const* operands, int count, void* to, std::size_t n,
                 int world_size, void* room, CUstream_st* stream) {
  const auto& reduction = *static_cast<const Reduction*>(context);
  const FullFold<Reduction> full{reduction, world_size};
  if constexpr (detail::is_plain_reduction<Reduction>) {  // all kinds are one
    if (count == 1) {
      return cudaMemcpyAsync(to, operands[0], n * sizeof(typename Reduction::value_type), cudaMemcpyDefault, stream);
    }
    return enqueue_operands<max_window_ranks>(full, operands, count, to, n, room, stream);
  } else {
    switch (kind) {
      case FoldKind::values_to_value:
        return enqueue_operands<max_window_ranks>(full, operands, count, to, n, room, stream);
      case FoldKind::values_to_partial:
        return enqueue_operands<2>(PartialFold<Reduction>{reduction}, operands, count, to, n, room, stream);
      case FoldKind::partials_to_partial:
        return enqueue_operands<2>(JoinFold<Reduction>{reduction}, operands, count, to, n, room, stream);
      case FoldKind::partials_to_value: break;
    }
    return enqueue_operands<2>(FinalFold<Reduction>{reduction, world_size}, operands, count, to, n, room, stream);
  }
}

/// Asks for a kernel, by which it is loaded.
template <class Fold, class... Arguments>
cudaError_t load_fold(void (*kernel)(Fold, Arguments...)) noexcept {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
}
/// The kernels that enqueue_operands launches.
template <int Few, class Fold>
cudaError_t load_operands() noexcept {
  cudaError_t error = load_fold(&fold_few<Fold, 2>);
  if constexpr (Few > 2) {
    if (error == cudaSuccess) error = load_fold(&fold_few<Fold, Few>);
  }
  return error == cudaSuccess ? load_fold(&fold_run<Fold>) : error;
}

/// Loads all kernels that enqueue_fold launches.
template <class Reduction>
cudaError_t load_folds() noexcept {
  cudaError_t error = load_operands<max_window_ranks, FullFold<Reduction>>();
  if constexpr (!detail::is_plain_reduction<Reduction>) {
    if (error == cudaSuccess) error = load_operands<2, PartialFold<Reduction>>();
    if (error == cudaSuccess) error = load_operands<2, JoinFold<Reduction>>();
    if (error == cudaSuccess) error = load_operands<2, FinalFold<Reduction>>();
  }
  return error;
}

}  // namespace folding ALLFOLD_HIDDEN

/// What message algorithms know of a reduction whose operands lie in memory of the host, or of a GPU: the same bits on
/// either. It refers to `reduction`, whose operator is callable on both sides.
template <class Reduction>
MessageReduction device_reduction(const Reduction& reduction) noexcept {
  MessageReduction erased = host_reduction(reduction);
  erased.enqueue = &folding::enqueue_fold<Reduction>;
  return erased;
}

}  // namespace ALLFOLD_ARCH_NAMESPACE

}  // namespace allfold
