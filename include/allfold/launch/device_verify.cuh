// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include <cuda_runtime_api.h>

#include <allfold/base/atomics.hpp>
#include <allfold/base/cuda_arch.cuh>
#include <allfold/base/cuda_check.cuh>
#include <allfold/memory/window.hpp>
#include <allfold/policy/meeting.hpp>

namespace allfold {

inline namespace ALLFOLD_ARCH_NAMESPACE {

/// The first bytes of a buffer, in which every rank has a cell to write to; of a buffer shorter than 8 bytes, only the
/// first ranks have.
struct VerifyCells {
  static constexpr std::size_t most_bytes = 64;

  unsigned cell = 1;  ///< bytes of one
  unsigned room = 0;  ///< bytes of all

  explicit VerifyCells(std::size_t bytes)
      : cell(
            static_cast<unsigned>(std::clamp(bytes / max_window_ranks, std::size_t{1}, most_bytes / max_window_ranks))),
        room(static_cast<unsigned>(std::min(bytes, most_bytes))) {}

  ALLFOLD_HD bool has(int rank) const { return (static_cast<unsigned>(rank) + 1) * cell <= room; }
  /// What rank `from` writes into byte i of its cell at rank `to`.
  static ALLFOLD_HD unsigned char byte(int from, int to, unsigned i) {
    return static_cast<unsigned char>(
        (static_cast<unsigned>(from * max_window_ranks + to + 1) * 2654435761U + i * 40503U) >> 16);
  }
};

ALLFOLD_KERNELS_BEGIN

/// Writes this rank's cell of every rank's buffer, through every link.
template <int Most>
ALLFOLD_KERNEL void write_cells_kernel(const __grid_constant__ Buffer buffer, const __grid_constant__ VerifyCells cells,
                                       int rank, int world_size) {
  const auto to = static_cast<int>(threadIdx.x);
  if (to >= world_size || !cells.has(rank)) return;
  auto* const cell = static_cast<volatile unsigned char*>(buffer.at[to]) + static_cast<unsigned>(rank) * cells.cell;
  for (unsigned i = 0; i < cells.cell; ++i) cell[i] = VerifyCells::byte(rank, to, i);
  __threadfence_system();
}

/// Reads what every rank wrote into every rank's buffer; the first pair (from * Most + to) that is wrong goes to
/// `*wrong`, which was -1.
template <int Most>
ALLFOLD_KERNEL void read_cells_kernel(const __grid_constant__ Buffer buffer, const __grid_constant__ VerifyCells cells,
                                      int world_size, int* wrong) {
  const auto to = static_cast<int>(threadIdx.x) / Most;
  const auto from = static_cast<int>(threadIdx.x) % Most;
  if (to >= world_size || from >= world_size || !cells.has(from)) return;
  const auto* const cell =
      static_cast<const volatile unsigned char*>(buffer.at[to]) + static_cast<unsigned>(from) * cells.cell;
  for (unsigned i = 0; i < cells.cell; ++i) {
    if (cell[i] != VerifyCells::byte(from, to, i)) atomicCAS(wrong, -1, from * Most + to);
  }
}

ALLFOLD_KERNELS_END

/// Not by <<<>>>, which tells of no error but by cudaGetLastError, that of another call among them.
ALLFOLD_HIDDEN inline cudaError_t launch_one_block(const void* kernel, unsigned threads, cudaStream_t stream,
                                                   std::initializer_list<const void*> arguments) {
  void* pointers[4] = {};
  std::transform(arguments.begin(), arguments.end(), pointers, [](const void* p) { return const_cast<void*>(p); });
  return cudaLaunchKernel(kernel, dim3(1), dim3(threads), pointers, 0, stream);
}

/// Every GPU writes a cell of every rank's part of a buffer of `bytes`, and reads what all of them wrote into all. The
/// first VerifyCells::most_bytes are lost. `verdict`: a word of the host, which kernels see at `device_verdict`: a copy
/// would not show that a kernel's accesses arrive.
/// @throws PeerError that names the pair of ranks.
ALLFOLD_COLD inline void verify_reach(Meeting& meeting, const Buffer& buffer, std::size_t bytes, cudaStream_t stream,
                                      int* verdict, int* device_verdict) {
  const Where where = meeting.where();
  const VerifyCells cells(bytes);
  int rank = meeting.rank();
  int world_size = meeting.world_size();
  const auto finish = [&](cudaError_t launched, TextPieces what) {
    check_cuda(where, launched, {"the kernel that verifies memory could not be launched"});
    check_cuda(where, cudaStreamSynchronize(stream), what);
  };
  *verdict = -1;
  finish(launch_one_block(reinterpret_cast<const void*>(&write_cells_kernel<max_window_ranks>), 32, stream,
                          {&buffer, &cells, &rank, &world_size}),
         {"a peer's memory could not be written"});
  meeting.barrier("verify device memory");
  finish(launch_one_block(reinterpret_cast<const void*>(&read_cells_kernel<max_window_ranks>),
                          max_window_ranks * max_window_ranks, stream, {&buffer, &cells, &world_size, &device_verdict}),
         {"a peer's memory could not be read"});
  const int pair = load_acquire(verdict);
  if (pair < 0) return;
  throw PeerError(
      where, pair / max_window_ranks,
      {"what the GPU of rank ", pair / max_window_ranks, " wrote into memory of rank ", pair % max_window_ranks,
       " did not arrive; expected GPUs with peer access; see nvidia-smi topo -p2p w"});
}

/// The first bytes of a range, which verify_reach overwrites: put back at the end of the scope.
class SavedBytes {
 public:
  SavedBytes(const Where& where, void* from, std::size_t bytes, cudaStream_t stream)
      : from_(from), bytes_(std::min(bytes, VerifyCells::most_bytes)), stream_(stream) {
    check_cuda(where, cudaMemcpyAsync(bytes_of_, from_, bytes_, cudaMemcpyDeviceToHost, stream_),
               {"the range could not be read"});
    check_cuda(where, cudaStreamSynchronize(stream_), {"the range could not be read"});
  }
  SavedBytes(const SavedBytes&) = delete;
  SavedBytes& operator=(const SavedBytes&) = delete;
  ~SavedBytes() {
    static_cast<void>(cudaMemcpyAsync(from_, bytes_of_, bytes_, cudaMemcpyHostToDevice, stream_));
    static_cast<void>(cudaStreamSynchronize(stream_));
  }

 private:
  unsigned char bytes_of_[VerifyCells::most_bytes] = {};
  void* from_;
  std::size_t bytes_;
  cudaStream_t stream_;
};

}  // namespace ALLFOLD_ARCH_NAMESPACE

}  // namespace allfold
