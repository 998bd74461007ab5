// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/memory/cuda_scope.cuh>
#include <allfold/memory/device_pointer.cuh>
#include <allfold/memory/message_record.hpp>
#include <allfold/policy/meeting.hpp>
#include <allfold/policy/message_options.hpp>
#include <allfold/transport/ucx_cuda_room.cuh>
#include <allfold/transport/ucx_cuda_transfer.cuh>
#include <allfold/transport/ucx_link.hpp>
#include <allfold/transport/ucx_worker.hpp>

namespace allfold {

/// A worker whose calls may have memory of the GPU that was current when it was made.
class UcxCudaWorker : public UcxWorker {
 public:
  ALLFOLD_COLD UcxCudaWorker(Meeting& meeting, bool sleeps) : UcxWorker(meeting, sleeps, true), room_(meeting.where()) {
    set_poller(&room_);
  }

  CudaRoom& room() noexcept { return room_; }
  CudaGates& gates() noexcept { return room_.gates(); }

  // As UcxWorker has them, with the GPU current: UCX asks for it too, when it arms or works.
  bool advance() {
    const CudaScope scope(room_.device());
    const bool moved = UcxWorker::advance();
    if (moved) room_.moved();
    return moved;
  }
  void look(std::uint64_t late) {
    const CudaScope scope(room_.device());
    UcxWorker::look(late);
  }
  Duration arm(Duration timeout) noexcept {
    const CudaScope scope(room_.device());
    return UcxWorker::arm(timeout);
  }
  template <class Over, class Late>
  void drive(Over&& over, Late&& late) {
    const CudaScope scope(room_.device());
    UcxWorker::drive(over, late);
  }

 private:
  CudaRoom room_;
};

/// UcxLink for calls on memory of a GPU too: how such memory gets into messages is agreed on by all ranks.
class UcxCudaLink {
 public:
  /// Collective. @throws UsageError where MessageOptions::cuda asks for what a rank's UCX cannot do; MismatchError
  ALLFOLD_COLD UcxCudaLink(UcxCudaWorker& worker, Meeting& meeting, std::span<const Identity> ranks,
                           const UcxLink::Options& of_link, const MessageOptions& options)
      : room_(worker.room()),
        chunk_bytes_(options.cuda_chunk_bytes),
        direct_(agree(meeting, worker, options)),
        has_gates_(options.cuda_gates && !direct_),
        link_(worker, meeting, ranks, of_link),
        turns_(room_) {
    room_.fault().join(link_);
  }
  UcxCudaLink(const UcxCudaLink&) = delete;
  UcxCudaLink& operator=(const UcxCudaLink&) = delete;
  ~UcxCudaLink() {
    close();
    room_.fault().leave(link_);
  }

  void close() noexcept {
    const CudaScope scope(room_.device());
    link_.close();
    const Deadline soon = Deadline::after(std::chrono::seconds(2));
    do {
      room_.poll();
    } while (room_.at_work() && !soon.expired());
  }

  int rank() const noexcept { return link_.rank(); }
  UcxLink& plain() noexcept { return link_; }
  CudaRoom& room() noexcept { return room_; }
  detail::StagedTurns& turns() noexcept { return turns_; }
  std::size_t chunk_bytes() const noexcept { return chunk_bytes_; }
  /// Long parts go in pieces of so many bytes, of which two are under way at a time. Source: decision 14.
  std::size_t piece_bytes() const noexcept {
    return direct_
               ? std::max(std::size_t{1} << 20, (std::size_t{32} << 20) / static_cast<std::size_t>(link_.world_size()))
               : 2 * chunk_bytes_;
  }
  /// Whether UCX takes memory of the GPU as it is.
  bool direct() const noexcept { return direct_; }

  /// Whether streams may wait for operations. Not with direct: UCX gives up mappings of peers' memory within calls, for
  /// which CUDA waits for all streams.
  bool has_gates() const noexcept { return has_gates_; }

  /// Whether the ranks no longer go on together; for any thread.
  bool failed() const noexcept { return link_.failed(); }
  [[noreturn]] void throw_failure(const Where& where, Duration timeout, bool earlier) const {
    if (const std::exception_ptr fault = room_.fault().why()) std::rethrow_exception(fault);
    link_.throw_failure(where, timeout, earlier);
  }

  /// Where the buffers of a call lie; for any thread.
  /// @throws UsageError unless all of them are of the host, or of the communicator's GPU
  MemoryKind kind_of(const Where& where, std::span<const NamedMemory> buffers) const {
    MemoryKind kind = MemoryKind::none;
    const NamedMemory* first = nullptr;
    for (const NamedMemory& buffer : buffers) {
      const DevicePointer pointer = find(buffer.data);
      if (pointer.kind == DevicePointer::Kind::managed) throw_managed(where, buffer);
      const bool on_device = pointer.kind == DevicePointer::Kind::device;
      if (on_device && pointer.device != room_.device()) throw_elsewhere(where, buffer, pointer.device);
      const MemoryKind each = on_device ? MemoryKind::device : MemoryKind::host;
      if (first == nullptr) {
        first = &buffer;
        kind = each;
      } else if (each != kind) {
        throw_mixed(where, *first, kind, buffer);
      }
    }
    return kind;
  }

 private:
  DevicePointer find(const void* data) const noexcept {
    DevicePointer pointer = DevicePointer::of(room_.driver(), data);
    if (pointer.kind == DevicePointer::Kind::unasked) {  // this thread has not used CUDA yet
      const CudaScope scope(room_.device());
      static_cast<void>(cudaSetDevice(room_.device()));
      pointer = DevicePointer::of(room_.driver(), data);
    }
    return pointer;
  }

  [[noreturn]] ALLFOLD_COLD void throw_managed(const Where& where, const NamedMemory& buffer) const {
    throw UsageError(where, {"the ", buffer.name, " is managed memory; expected memory of device ", room_.device(),
                             ", or of the host; try cudaMalloc"});
  }
  [[noreturn]] ALLFOLD_COLD void throw_elsewhere(const Where& where, const NamedMemory& buffer, int device) const {
    throw UsageError(where, {"the ", buffer.name, " is memory of device ", device, "; expected device ", room_.device(),
                             ", which was current when the communicator was created; copy it there, or create one for ",
                             "that device"});
  }
  [[noreturn]] ALLFOLD_COLD void throw_mixed(const Where& where, const NamedMemory& a, MemoryKind kind,
                                             const NamedMemory& b) const {
    const std::string device = concat({"memory of device ", room_.device()});
    const std::string_view host = "memory of the host";
    const bool on_device = kind == MemoryKind::device;
    throw UsageError(where, {"the ", a.name, " is ", on_device ? std::string_view(device) : host, " and the ", b.name,
                             " is ", on_device ? host : std::string_view(device),
                             "; expected all buffers of a call in one place; copy one of them first"});
  }

  static bool agree(Meeting& meeting, const UcxWorker& worker, const MessageOptions& options) {
    struct Offer {
      CudaWay way;
      bool can_direct;
      std::uint64_t chunk_bytes;
    };
    const bool can_direct = worker.knows_cuda();
    const std::vector<Offer> all =
        meeting.all_gather("memory of GPUs", Offer{options.cuda, can_direct, options.cuda_chunk_bytes});
    int without = -1;
    for (std::size_t r = 0; r < all.size(); ++r) {
      const bool same_way = all[r].way == options.cuda;
      if (!same_way || all[r].chunk_bytes != options.cuda_chunk_bytes) {
        throw MismatchError(
            meeting.where(), static_cast<int>(r),
            {"ranks disagree on MessageOptions::", same_way ? "cuda_chunk_bytes" : "cuda",
             "; this rank differs from rank ", r, "; give every rank the same options and environment"});
      }
      if (without < 0 && !all[r].can_direct) without = static_cast<int>(r);
    }
    if (options.cuda == CudaWay::direct && without >= 0) {
      throw UsageError(meeting.where(),
                       {"memory of GPUs cannot be sent as it is: UCX of rank ", without,
                        " knows no CUDA; expected one "
                        "that was built with it on every rank; install such a one, or choose auto or staged"});
    }
    return options.cuda != CudaWay::staged && without < 0;
  }

  CudaRoom& room_;
  std::size_t chunk_bytes_;
  bool direct_;
  bool has_gates_;
  UcxLink link_;
  detail::StagedTurns turns_;
};

}  // namespace allfold
