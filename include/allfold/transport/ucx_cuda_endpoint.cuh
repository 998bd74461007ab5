// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <utility>

#include <cuda_runtime_api.h>
#include <ucs/memory/memory_type.h>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/reduction.hpp>
#include <allfold/algo/message/task.hpp>
#include <allfold/base/error.hpp>
#include <allfold/exec/cuda_reduction.cuh>
#include <allfold/memory/block_pool.hpp>
#include <allfold/memory/cuda_pool.cuh>
#include <allfold/memory/message_record.hpp>
#include <allfold/transport/ucx_cuda_link.cuh>
#include <allfold/transport/ucx_cuda_room.cuh>
#include <allfold/transport/ucx_cuda_transfer.cuh>
#include <allfold/transport/ucx_endpoint.hpp>

namespace allfold {

inline namespace ALLFOLD_ARCH_NAMESPACE {

/// One call of one rank over UCX, on memory of the host or of the GPU; see algo/message/endpoint.hpp.
class UcxCudaEndpoint : private UcxEndpoint {
 public:
  using transfer_type = UcxCudaTransfer;
  using UcxEndpoint::abandon;
  using UcxEndpoint::frames;
  using UcxEndpoint::mismatch;
  using UcxEndpoint::rank;
  using UcxEndpoint::set_timeout;
  using UcxEndpoint::tag;
  using UcxEndpoint::where;
  using UcxEndpoint::world_size;

  UcxCudaEndpoint(UcxCudaLink& link, const CollectiveId& id) noexcept : UcxEndpoint(link.plain(), id), link_(link) {}
  UcxCudaEndpoint(UcxCudaLink& link, const MessageId& id) noexcept
      : UcxEndpoint(link.plain(), id), link_(link), of_user_(true) {}

  /// What message algorithms know of a reduction on either memory.
  template <class Reduction>
  static MessageReduction erased(const Reduction& reduction) noexcept {
    return device_reduction(reduction);
  }

  /// Before the call is made: what a reduction needs that must not be got while a stream waits for an operation.
  template <class Reduction>
  static void prepare(UcxCudaLink& link, const Where& where) {
    if (!link.has_gates()) return;
    const auto load = &folding::load_folds<Reduction>;
    link.room().gates().load_once(where, reinterpret_cast<const void*>(load), load);
  }

  /// Before the call begins, by who makes it: what `stream` has to do so far comes first.
  void take_input(const Where& where, MemoryKind memory, CUstream_st* stream) {
    on_device_ = memory == MemoryKind::device;
    if (on_device_) input_.emplace(room().inputs().take(where, stream));
  }
  /// The task of the call, once its input is there.
  Task<bool> after_input(Task<bool> task) {
    if (!on_device_) return task;
    return once_there(*this, std::move(task));
  }
  /// What is sent, received and copied is memory of the host meanwhile.
  void set_on_host(bool on_host) noexcept { on_host_ = on_host; }

  /// Long parts of memory of the GPU go in pieces of many chunks: what a step costs is not in its bytes alone.
  std::size_t piece_bytes() const noexcept { return is_on_host() ? allfold::piece_bytes : link_.piece_bytes(); }

  UcxCudaTransfer send(int peer, int step, const void* from, std::size_t bytes) {
    if (is_on_host() || bytes == 0) return UcxEndpoint::send(peer, step, from, bytes);
    if (has_failed()) return UcxTransfer::refused();
    if (link_.direct()) {
      const std::uint64_t message = detail::UcxTag::message(tag(), step, rank());
      return UcxTransfer(link_.plain().operations().send(peer, message, from, bytes, UCS_MEMORY_TYPE_CUDA));
    }
    return UcxCudaTransfer(staged(peer, step, bytes), [&](detail::Staged& s) { s.send(from); });
  }
  /// `peer` may be any_source.
  UcxCudaTransfer receive(int peer, int step, void* to, std::size_t bytes) {
    if (is_on_host() || bytes == 0) return UcxEndpoint::receive(peer, step, to, bytes);
    if (has_failed()) return UcxTransfer::refused();
    if (link_.direct()) {
      const std::uint64_t message = detail::UcxTag::message(tag(), step, peer);
      return UcxTransfer(link_.plain().operations().receive(peer, message, to, bytes, UCS_MEMORY_TYPE_CUDA));
    }
    return UcxCudaTransfer(staged(peer, step, bytes), [&](detail::Staged& s) { s.receive(to); });
  }

  /// Awaits what the host has done already, or the GPU is to do.
  struct Result {
    CudaStep step;
    CudaBlock room;  ///< what the step uses

    bool await_ready() const noexcept { return step.await_ready(); }
    void await_suspend(std::coroutine_handle<> waiter) noexcept { step.await_suspend(waiter); }
    bool await_resume() const noexcept { return step.await_resume(); }
  };

  Result copy(void* to, const void* from, std::size_t bytes) {
    if (is_on_host()) return now(UcxEndpoint::copy(to, from, bytes).ok);
    if (has_failed()) return now(false);
    if (bytes == 0 || to == from) return now(true);
    return {room().lanes().copy(CudaLanes::work, to, from, bytes), {}};
  }
  Result fold(const MessageReduction& reduction, FoldKind kind, std::span<const void* const> operands, void* to,
              std::size_t n) {
    if (is_on_host()) return now(UcxEndpoint::fold(reduction, kind, operands, to, n).ok);
    if (has_failed()) return now(false);
    const int count = static_cast<int>(operands.size());
    if (n == 0 || (count == 1 && reduction.plain && to == operands[0])) return now(true);
    CudaBlock partials;
    if (count > MessageReduction::most_enqueued) partials = device_block(n * reduction.partial_bytes);
    CudaStep step = room().lanes().start(CudaLanes::work, [&](cudaStream_t stream) {
      return static_cast<cudaError_t>(reduction.enqueue(reduction.reduction, kind, operands.data(), count, to, n,
                                                        world_size(), partials.data(), stream));
    });
    return {std::move(step), std::move(partials)};
  }

  /// A block of memory of the call's kind.
  struct Scratch {
    Block host;
    CudaBlock device;

    void* data() const noexcept { return device.data() != nullptr ? device.data() : host.data(); }
  };
  Scratch scratch(std::size_t bytes) {
    if (is_on_host()) return {UcxEndpoint::scratch(bytes), {}};
    return {{}, bytes == 0 ? CudaBlock() : device_block(bytes)};
  }

  /// Why a task of this call ended with false.
  ALLFOLD_COLD std::exception_ptr failure() const noexcept {
    if (const std::exception_ptr fault = link_.room().fault().why()) return fault;
    const std::exception_ptr failure = UcxEndpoint::failure();
    if (!waits_for_input_) return failure;
    try {
      std::rethrow_exception(failure);
    } catch (const TimeoutError&) {
      return std::make_exception_ptr(
          TimeoutError(where(), rank(),
                       {"the input was not there in time; expected CallOptions::stream to get there; "
                        "see what it does, or try a longer timeout"}));
    } catch (...) {
      return failure;
    }
  }

 private:
  static Task<bool> once_there(UcxCudaEndpoint& e, Task<bool> task) {
    CudaInputs::Arrival arrival(e.room().inputs(), e.link_.plain(), *e.input_, e.tag());
    e.waits_for_input_ = true;
    if (!co_await Awaited{arrival}) co_return false;
    e.waits_for_input_ = false;
    std::optional<CudaRoom::Awake> awake;
    if (e.link_.direct()) awake.emplace(e.room());
    co_return co_await std::move(task);
  }

  static Result now(bool ok) noexcept { return {ok ? CudaStep() : CudaStep::refused(), {}}; }

  CudaRoom& room() noexcept { return link_.room(); }
  bool is_on_host() const noexcept { return !on_device_ || on_host_; }
  bool has_failed() const noexcept { return link_.plain().failure().has_value(); }
  CudaBlock device_block(std::size_t bytes) { return CudaBlock(room().device_pool(), where(), bytes); }
  detail::StagedMessage staged(int peer, int step, std::size_t bytes) noexcept {
    return {room(), link_.plain(), link_.turns(), peer, tag(), step, {bytes, link_.chunk_bytes(), of_user_}};
  }

  UcxCudaLink& link_;
  std::optional<CudaInputs::Input> input_;
  bool on_device_ = false;
  bool on_host_ = false;
  bool of_user_ = false;
  bool waits_for_input_ = false;
};
static_assert(endpoint<UcxCudaEndpoint>);

}  // namespace ALLFOLD_ARCH_NAMESPACE

}  // namespace allfold
