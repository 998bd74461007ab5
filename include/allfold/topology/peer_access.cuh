// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>
#include <allfold/policy/identity.hpp>
#include <allfold/policy/link_matrix.hpp>
#include <allfold/policy/topology.hpp>
#include <allfold/topology/gpu_ranks.hpp>

namespace allfold {

namespace detail {

/// The links between ranks of which this process sees the GPUs in `visible`, by ordinal. `linked` tells whether the
/// first of two ordinals reaches the second; it is asked both ways.
template <class Linked>
LinkMatrix links_between_visible(std::span<const Identity> ranks, std::span<const Identity> visible, Linked linked) {
  const auto world_size = static_cast<int>(ranks.size());
  int ordinals[max_window_ranks];
  for (int r = 0; r < world_size; ++r) {
    ordinals[r] = -1;
    for (std::size_t device = 0; device < visible.size(); ++device) {
      if (ranks[static_cast<std::size_t>(r)].same_device(visible[device])) ordinals[r] = static_cast<int>(device);
    }
  }
  LinkMatrix matrix;
  matrix.world_size = world_size;
  for (int a = 0; a < world_size; ++a) {
    for (int b = 0; b < a; ++b) {
      const bool one_gpu = ranks[static_cast<std::size_t>(a)].same_device(ranks[static_cast<std::size_t>(b)]);
      const bool unseen = ordinals[a] < 0 || ordinals[b] < 0;
      if (one_gpu || unseen || (linked(ordinals[a], ordinals[b]) && linked(ordinals[b], ordinals[a]))) {
        matrix.connect(a, b);
      }
    }
  }
  return matrix;
}

}  // namespace detail

/// The links between the ranks' GPUs as far as CUDA tells, for machines and containers without NVML. Two GPUs are
/// linked, with a count of one, if each may access the other's memory and has native atomics there: NVLink has them,
/// PCIe as a rule has not. How many links lie side by side CUDA does not tell. Ranks that share a GPU are linked.
///
/// A GPU that this process does not see (CUDA_VISIBLE_DEVICES, one GPU for each task of SLURM) cannot be asked about,
/// and is taken for linked: CUDA maps the memory of such GPUs all the same, and it is the rendezvous, which writes and
/// reads back through every pair, that finds out whether they reach each other. To answer "unknown" would refuse
/// every program started with one GPU a process, on machines where all are linked. So a machine that is not fully
/// connected needs NvmlTopology there.
class PeerAccessTopology {
 public:
  using policy_category = topology_tag;

  /// @throws UsageError if a rank has no GPU; CudaError if CUDA fails.
  LinkMatrix links(std::span<const Identity> ranks) const {
    detail::check_gpu_ranks(ranks, "PeerAccessTopology");
    return detail::links_between_visible(ranks, visible_gpus(), [](int from, int to) {
      int access = 0;
      check_cuda("topology", ::cudaDeviceCanAccessPeer(&access, from, to), {"cudaDeviceCanAccessPeer failed"});
      if (access == 0) return false;
      int atomics = 0;
      check_cuda("topology", ::cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, from, to),
                 {"cudaDeviceGetP2PAttribute failed"});
      return atomics != 0;
    });
  }

 private:
  ALLFOLD_COLD static std::vector<Identity> visible_gpus() {
    int count = 0;
    check_cuda("topology", ::cudaGetDeviceCount(&count), {"cudaGetDeviceCount failed"});
    std::vector<Identity> gpus(static_cast<std::size_t>(count));
    for (int device = 0; device < count; ++device) {
      cudaDeviceProp properties;
      check_cuda("topology", ::cudaGetDeviceProperties(&properties, device), {"cudaGetDeviceProperties failed"});
      Identity& gpu = gpus[static_cast<std::size_t>(device)];
      gpu.device = device;
      static_assert(sizeof gpu.device_id == sizeof properties.uuid);
      std::memcpy(gpu.device_id, &properties.uuid, sizeof gpu.device_id);
    }
    return gpus;
  }
};
static_assert(topology_policy<PeerAccessTopology>);

}  // namespace allfold
