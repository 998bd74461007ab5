// SPDX-License-Identifier: Apache-2.0

/// Kernels of CUDA's narrow floats, whose conversions are instructions on some architectures only.

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <allfold/allfold.cuh>

void narrow_all_reduce() {
  using allfold::Algorithm;
  auto packets =
      allfold::Communicator<allfold::NvlinkTransport, allfold::FixedSelector<Algorithm::one_shot_packet>>::create(
          allfold::environment());
  packets.all_reduce(packets.allocate<__half>(1024), allfold::sum);
  packets.all_reduce(packets.allocate<__nv_fp8_e4m3>(1024), allfold::sum);

  auto chunks = allfold::Communicator<allfold::NvlinkTransport, allfold::FixedSelector<Algorithm::two_shot>>::create(
      allfold::environment());
  chunks.all_reduce(chunks.allocate<__half>(1024), allfold::sum);
  chunks.all_reduce(chunks.allocate<__nv_fp8_e5m2>(1024), allfold::sum);
}
