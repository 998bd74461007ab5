// SPDX-License-Identifier: Apache-2.0
#pragma once

/// allfold on GPUs. Each element type is a translation unit of its own: nvcc takes its time for each.

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <allfold/allfold.cuh>

#include "gpu.cuh"
#include "subjects.cuh"
#include "trial.cuh"

namespace bench {

template <class T>
class CudaSubject final : public Subject {
 public:
  CudaSubject(std::shared_ptr<Gpu> gpu, const allfold::Environment& environment, allfold::TcpStore& store)
      : gpu_(std::move(gpu)),
        comm_(DeviceComm::create(environment, store, selector_of(gpu_->plan()), options(gpu_->plan()))) {
    if (comm_.topology() == allfold::TopologyKind::hybrid_cube_mesh) gpu_->use_whole_numbers();
    for (const Buffers buffers : gpu_->plan().buffers) {
      if (buffers != Buffers::symmetric) continue;
      symmetric_out_.emplace(comm_.template allocate<T>(gpu_->plan().max_bytes / sizeof(T)));
      if (!gpu_->plan().in_place) symmetric_in_.emplace(comm_.template allocate<T>(gpu_->plan().max_bytes / sizeof(T)));
    }
  }

  std::string name() const override { return "allfold"; }
  std::string about() const override { return gpu_->about(); }

  std::unique_ptr<Trial> trial(const Case& c, std::size_t count) override {
    const std::span<T> out(c.buffers == Buffers::symmetric ? symmetric_out_->data() : as<T>(gpu_->private_out()),
                           count);
    std::span<T> in = out;
    if (!gpu_->plan().in_place) {
      in = {c.buffers == Buffers::symmetric ? symmetric_in_->data() : as<T>(gpu_->private_in()), count};
    }
    CudaCall call{.in = in.data(), .out = out.data(), .match = Match::bits};
    call.enqueue = [this, in = std::span<const T>(in), out, how = c.algorithm](cudaStream_t stream) {
      comm_.all_reduce(in, out, allfold::sum, {.stream = stream, .algorithm = how});
    };
    call.status = [this] { comm_.status(); };
    const std::optional<allfold::Algorithm> algorithm = algorithm_of(c, call, in, out);
    if (!algorithm) return nullptr;
    return std::make_unique<CudaTrial>(*gpu_, c.mode, operands(*gpu_, count), *algorithm, std::move(call));
  }

 private:
  using DeviceComm = allfold::Communicator<allfold::TcpStore, allfold::NvlinkTransport, allfold::PeerAccessTopology,
                                           allfold::TunedSelector>;

  /// A peer that fails shows in seconds, not at the end of the run.
  static allfold::Options options(const Plan& plan) {
    return {.timeout = std::chrono::seconds(10), .blocks = plan.blocks};
  }

  template <class U>
  static U* as(void* data) {
    return static_cast<U*>(data);
  }

  /// The algorithm that runs `c`; nothing if the one it asks for cannot.
  std::optional<allfold::Algorithm> algorithm_of(const Case& c, const CudaCall& call, std::span<T> in,
                                                 std::span<T> out) {
    if (!c.algorithm) return comm_.would_choose(in, out);
    try {
      call.enqueue(gpu_->stream());
    } catch (const allfold::UsageError&) {  // thrown before anything is enqueued, on every rank alike
      return std::nullopt;
    }
    gpu_->wait();
    call.status();
    return c.algorithm;
  }

  std::shared_ptr<Gpu> gpu_;
  DeviceComm comm_;
  std::optional<typename DeviceComm::template buffer_type<T>> symmetric_in_, symmetric_out_;
};

}  // namespace bench
