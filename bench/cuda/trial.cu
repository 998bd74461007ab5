// SPDX-License-Identifier: Apache-2.0

#include "trial.cuh"

#include <algorithm>

namespace bench {
namespace {

/// The host's time of so many calls from an idle stream on: more of them, and it waits for room in the queue.
constexpr long enqueue_sample = 100;

}  // namespace

bool CudaTrial::start() {
  spoil(call_.out);
  fill_operands(operands_, gpu_.comm().rank(), call_.in, gpu_.stream());
  wait();
  call_.enqueue(gpu_.stream());
  wait();
  const bool right = !gpu_.plan().check || correct();
  if (call_.in == call_.out) {
    check_cuda(cudaMemsetAsync(call_.out, 0, bytes(), gpu_.stream()), "cudaMemset");
    wait();
  }
  if (mode_ == Mode::graph) capture();
  return right;
}

std::vector<Sample> CudaTrial::turn(const Turn& turn) {
  if (turn.warmup > 0) enqueue(turn.warmup);
  wait();
  std::vector<Sample> samples;
  for (int batch = 0; batch < turn.batches; ++batch) {
    gpu_.comm().barrier();
    check_cuda(cudaEventRecord(gpu_.begin(), gpu_.stream()), "cudaEventRecord");
    const long calls = enqueue(turn.calls);
    check_cuda(cudaEventRecord(gpu_.end(), gpu_.stream()), "cudaEventRecord");
    wait();
    float ms = 0;
    check_cuda(cudaEventElapsedTime(&ms, gpu_.begin(), gpu_.end()), "cudaEventElapsedTime");
    samples.push_back({.us = ms * 1000.0 / static_cast<double>(calls), .cpu_us = cpu_us_});
  }
  return samples;
}

bool CudaTrial::verify() {
  if (!gpu_.plan().check || call_.in == call_.out) return true;
  // The operands are those of start(); other contestants may have written the same output since.
  spoil(call_.out);
  enqueue(1);
  return correct();
}

/// Deep enough that the graph's own launch does not show.
int CudaTrial::depth() const {
  if (gpu_.plan().graph_depth > 0) return gpu_.plan().graph_depth;
  return bytes() <= (std::size_t{1} << 20) ? 50 : bytes() <= (std::size_t{256} << 20) ? 20 : 5;
}

void CudaTrial::capture() {
  // Other ranks may be threads that allocate meanwhile.
  check_cuda(cudaStreamBeginCapture(gpu_.stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  for (int i = 0; i < depth(); ++i) call_.enqueue(gpu_.stream());
  cudaGraph_t captured = nullptr;
  check_cuda(cudaStreamEndCapture(gpu_.stream(), &captured), "cudaStreamEndCapture");
  const CudaGraph graph(captured);
  cudaGraphExec_t instance = nullptr;
  check_cuda(cudaGraphInstantiate(&instance, graph.get(), 0), "cudaGraphInstantiate");
  graph_.reset(instance);
  check_cuda(cudaGraphUpload(instance, gpu_.stream()), "cudaGraphUpload");
  wait();
}

long CudaTrial::enqueue(long calls) {
  if (mode_ == Mode::graph) {
    const long replays = (calls + depth() - 1) / depth();
    for (long i = 0; i < replays; ++i) check_cuda(cudaGraphLaunch(graph_.get(), gpu_.stream()), "cudaGraphLaunch");
    return replays * depth();
  }
  const long sampled = std::min(calls, enqueue_sample);
  cpu_us_ = time_us([&] {
              for (long i = 0; i < sampled; ++i) call_.enqueue(gpu_.stream());
            }) /
            static_cast<double>(sampled);
  for (long i = sampled; i < calls; ++i) call_.enqueue(gpu_.stream());
  return calls;
}

bool CudaTrial::correct() {
  count_wrong(operands_, call_.match, call_.out, gpu_.counter(), gpu_.stream());
  std::uint64_t wrong = 0;
  check_cuda(cudaMemcpyAsync(&wrong, gpu_.counter(), sizeof wrong, cudaMemcpyDeviceToHost, gpu_.stream()),
             "cudaMemcpy");
  wait();
  return wrong == 0;
}

/// Bytes that no sum of operands has: a tiny number in every type.
void CudaTrial::spoil(void* data) { check_cuda(cudaMemsetAsync(data, 0xa5, bytes(), gpu_.stream()), "cudaMemset"); }

void CudaTrial::wait() {
  gpu_.wait();
  call_.status();
}

}  // namespace bench
