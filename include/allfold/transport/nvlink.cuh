// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

#include <cuda_runtime_api.h>

#include <allfold/base/cuda_check.cuh>
#include <allfold/base/variables.hpp>
#include <allfold/launch/cuda_channel.cuh>
#include <allfold/launch/device_all_reduce.cuh>
#include <allfold/launch/device_signals.cuh>
#include <allfold/launch/device_verify.cuh>
#include <allfold/memory/control_block.hpp>
#include <allfold/memory/descriptor_exchange.hpp>
#include <allfold/memory/device_import.cuh>
#include <allfold/memory/device_pointer.cuh>
#include <allfold/memory/device_sharing.cuh>
#include <allfold/memory/host_identity.hpp>
#include <allfold/memory/shared_parts.hpp>
#include <allfold/memory/shown_mapping.cuh>
#include <allfold/policy/transport.hpp>
#include <allfold/transport/nvlink_allocation.cuh>

namespace allfold {

inline namespace ALLFOLD_ARCH_NAMESPACE {

/// Moves bytes between GPUs of one host through memory that all of them map: loads and stores over NVLink, or over PCIe
/// where that has peer access. A rank's GPU is the device that is current when the communicator is created; ranks are
/// processes, or threads of one. Calls are enqueued on CallOptions::stream and may be captured in graphs; a call that
/// fails ends by itself, at its deadline at the latest, and the next call (or status()) says why.
///
/// Several ranks can share a GPU, for tests, where ALLFOLD_SHARE_DEVICE=1. All their kernels must fit it at once, and
/// run at once: on streams that have run a kernel before, and with nothing between them that waits for the whole GPU,
/// as freeing memory does.
/// The communicator has to end before cudaDeviceReset, and before a library whose kernels it has launched is unloaded.
/// ALLFOLD_HANDLE_TYPE=fd or fabric settles how ranks hand each other symmetric memory.
class NvlinkTransport {
 public:
  using policy_category = transport_tag;
  using channel_type = CudaChannel;
  using allocation_type = std::shared_ptr<NvlinkAllocation>;

  static constexpr std::string_view name = "nvlink";
  static constexpr int max_world_size = max_window_ranks;
  static constexpr bool device = true;
  static constexpr std::size_t largest_packet_element = DevicePacket::largest_element;

  Identity identity() const {
    Identity identity = host_identity();
    int current = -1;
    check_cuda("create", cudaGetDevice(&current),
               {"no GPU; expected one that CUDA can use; see nvidia-smi, or use ShmTransport for CPU ranks"});
    cudaDeviceProp properties = {};
    check_cuda("create", cudaGetDeviceProperties(&properties, current), {"device ", current, " cannot be asked"});
    identity.device = current;
    static_assert(sizeof properties.uuid.bytes == sizeof identity.device_id);
    std::memcpy(identity.device_id, properties.uuid.bytes, sizeof identity.device_id);
    return identity;
  }

  std::string refusal(std::span<const Identity> ranks) const {
    if (ranks.size() < 2) {
      return "NvlinkTransport joins 2 to 8 GPUs and this world has 1 rank; expected one rank for each GPU";
    }
    const bool share = boolean_variable("ALLFOLD_SHARE_DEVICE").value_or(false);
    for (std::size_t r = 1; r < ranks.size(); ++r) {
      if (!ranks[r].same_host(ranks[0])) {
        return concat({"rank 0 (on ", ranks[0].host_name, ") and rank ", r, " (on ", ranks[r].host_name,
                       ") run on different hosts, or in different namespaces of one; NvlinkTransport serves the GPUs ",
                       "of one host; try a transport that crosses hosts"});
      }
      for (std::size_t other = 0; other < r && !share; ++other) {
        if (!ranks[r].same_device(ranks[other])) continue;
        return concat({"ranks ", other, " and ", r, " are on the same GPU (devices ", ranks[other].device, " and ",
                       ranks[r].device, " of their processes); expected a GPU for each rank; call cudaSetDevice(local ",
                       "rank) before create, or set ALLFOLD_SHARE_DEVICE=1 for tests"});
      }
    }
    return {};
  }

  ALLFOLD_COLD void connect(Meeting& meeting, std::span<const Identity> ranks, const Options& options) {
    auto state = std::make_unique<State>();
    state->ranks.assign(ranks.begin(), ranks.end());
    state->rank = meeting.rank();
    state->world_size = meeting.world_size();
    DeviceSharing& sharing = state->sharing;
    sharing.device = ranks[static_cast<std::size_t>(state->rank)].device;
    sharing.driver = CudaDriver::load(meeting.where());
    int pageable = 0;
    check_cuda(meeting.where(), cudaDeviceGetAttribute(&pageable, cudaDevAttrPageableMemoryAccess, sharing.device),
               {"device ", sharing.device, " cannot be asked"});
    state->reaches_pageable = pageable != 0;
    sharing.exchange.emplace(meeting.where());
    sharing.addresses = meeting.all_gather("exchange addresses", sharing.exchange->address());
    sharing.type = agree_on_handle_type(meeting, sharing.driver, sharing.device);
    check_cuda(meeting.where(), cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking),
               {"no stream for the communicator's own meetings"});
    share_control(meeting, *state, ranks, options);

    const int blocks = agree_on_blocks(meeting, *state, ranks, options);
    const DeviceLayout layout = DeviceLayout::of(
        state->world_size, blocks, whole_device_lines(options.buffer_bytes),
        inbox_slot_bytes / static_cast<std::size_t>(state->world_size) / device_line_bytes * device_line_bytes);
    const std::size_t bytes = device_control_bytes + layout.bytes * static_cast<std::size_t>(options.channels);
    state->parts = share_device_memory(meeting, sharing, control_serial, bytes);
    verify(meeting, *state, state->parts.window(bytes, 0, state->world_size).buffer(verify_offset, state->world_size),
           VerifyCells::most_bytes);

    const int early_blocks = blocks_that_may_overlap(meeting.where(), *state, options, blocks);
    for (int c = 0; c < options.channels; ++c) {
      DeviceChannelView view{.layout = layout, .rank = state->rank, .early_blocks = early_blocks};
      PublishedCall* reports[max_window_ranks] = {};
      for (int r = 0; r < state->world_size; ++r) {
        view.part[r] = static_cast<char*>(state->parts.part[r]->data()) + device_control_bytes +
                       layout.bytes * static_cast<std::size_t>(c);
        reports[r] = report_of(state->control.part[r]->data(), c);
      }
      view.abort = static_cast<std::uint64_t*>(state->parts.part[0]->data());
      view.host_abort = &on_device<ControlBlock>(meeting.where(), state->control.part[0]->data())->abort;
      view.report = report_of(on_device<char>(meeting.where(), state->control.part[state->rank]->data()), c);
      state->channels.push_back(
          std::make_unique<CudaChannel>(c, view, reports, sharing.driver, sharing.device, blocks));
    }
    state_ = std::move(state);
  }

  ALLFOLD_COLD allocation_type allocate(Meeting& meeting, std::size_t bytes, std::uint32_t serial) {
    const DeviceGuard guard(state_->sharing.device);
    const std::size_t signals_offset = signal_part_offset(bytes);
    DeviceParts parts = share_device_memory(meeting, state_->sharing, serial, signals_offset + sizeof(SignalPart));
    const Window window = parts.window(bytes, serial, state_->world_size);
    return finish_allocation(meeting, std::move(parts), window, signals_offset);
  }

  /// The memory stays the caller's; signal pads are made for it.
  ALLFOLD_COLD allocation_type register_memory(Meeting& meeting, void* pointer, std::size_t bytes,
                                               std::uint32_t serial) {
    State& state = *state_;
    const DeviceGuard guard(state.sharing.device);
    const Where where = meeting.where();
    check_cuda(where, cudaDeviceSynchronize(),
               {"the range is in use, and not to be waited for; expected no stream under capture"});
    const allocation_type former = registered_before(where, pointer, bytes);
    const auto in_my_process = [&](const Identity& r) {
      return r.same_process(state.ranks[static_cast<std::size_t>(state.rank)]);
    };
    MemoryOffer mine = offer_memory(where, state.sharing.driver, state.sharing.device, pointer, bytes,
                                    !std::all_of(state.ranks.begin(), state.ranks.end(), in_my_process));
    mine.known = former ? former->window().serial : 0;
    const std::vector<MemoryOffer> offers = meeting.all_gather("offers of memory", mine);
    check_known(where, offers);
    if (former) return former;

    NvlinkAllocation::Imports imports;
    Window window{.bytes = bytes, .serial = serial};
    for (int r = 0; r < state.world_size; ++r) {
      window.at[r] = r == state.rank ? pointer : reach(where, state, r, offers[static_cast<std::size_t>(r)], imports);
    }
    {
      const SavedBytes saved(where, pointer, bytes, state.stream);
      meeting.barrier("memory is reached");
      verify(meeting, state, window.buffer(0, state.world_size), bytes);
      meeting.barrier("memory is verified");
    }
    DeviceParts signals = share_device_memory(meeting, state.sharing, serial, sizeof(SignalPart));
    return finish_allocation(meeting, std::move(signals), window, 0, std::move(imports));
  }

  struct Located {
    const Window* window = nullptr;
    std::size_t offset = 0;
  };
  Located find(const void* pointer, std::size_t bytes) const noexcept {
    const auto hit = state_->registry->find(pointer, bytes);
    return hit ? Located{&hit.entry->window(), hit.offset_bytes} : Located{};
  }

  ALLFOLD_NOINLINE void check_private(const Where& where, std::string_view what, const void* pointer) const {
    check_reached(where, what, DevicePointer::of(state_->sharing.driver, pointer), state_->sharing.device,
                  state_->reaches_pageable);
  }

  /// A barrier of the GPUs, for which the host waits.
  ALLFOLD_COLD std::optional<Failure> meet(const CallRecord& record, Duration timeout) {
    const DeviceGuard guard(state_->sharing.device);
    const Where where("create", state_->rank, state_->world_size);
    launch_barrier(channel(0), record, {.timeout = timeout, .stream = state_->stream}, false);
    check_cuda(where, cudaStreamSynchronize(state_->stream), {"the GPUs could not meet"});
    return failure();
  }

  std::size_t staging_bytes() const noexcept { return state_->channels.front()->view().layout.staging_bytes; }
  CudaChannel& channel(int index) noexcept { return *state_->channels[static_cast<std::size_t>(index)]; }

  std::optional<Failure> failure() const noexcept {
    const std::uint64_t word = load_acquire(&state_->control_block()->abort);
    return word == 0 ? std::nullopt : std::optional(Failure::unpack(word));
  }

  /// Peers are told nothing: what this rank has enqueued may still come, and their kernels have a deadline.
  void leave() noexcept {}

 private:
  /// Of one slot of all ranks.
  static constexpr std::size_t inbox_slot_bytes = std::size_t{128} << 10;
  static constexpr std::size_t host_control_bytes = 4096;
  static constexpr std::size_t device_control_bytes = device_line_bytes;
  /// Behind the abort word.
  static constexpr std::size_t verify_offset = 64;
  /// Of the exchange of control memory; allocations count from 1.
  static constexpr std::uint32_t control_serial = ~std::uint32_t{0};
  static_assert(sizeof(ControlBlock) <= host_control_bytes);

  struct State {
    State() = default;
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    ~State() {
      if (process != ::getpid()) {  // a forked child cannot use CUDA, nor free what is its parent's
        for (auto& part : parts.part) static_cast<void>(part.release());
        return;
      }
      const DeviceGuard guard(sharing.device);
      static_cast<void>(cudaDeviceSynchronize());  // kernels of ours end by themselves
      control = {};
      if (stream != nullptr) static_cast<void>(cudaStreamDestroy(stream));
    }

    ControlBlock* control_block() const noexcept { return static_cast<ControlBlock*>(control.part[0]->data()); }
    NvlinkAllocation::Owner owner() const { return {rank, world_size, sharing.device, stream, registry}; }

    int process = ::getpid();
    std::vector<Identity> ranks;
    int rank = 0;
    int world_size = 1;
    DeviceSharing sharing;
    int shared_by = 1;              ///< the most ranks that any GPU has
    bool reaches_pageable = false;  ///< the GPU loads from and stores to any memory of the host
    SharedParts control;            ///< memory of the host: the control block in rank 0's part, and each rank's reports
    cudaStream_t stream = nullptr;  ///< for meetings of the communicator itself
    DeviceParts parts;
    std::shared_ptr<NvlinkAllocation::Registry> registry = std::make_shared<NvlinkAllocation::Registry>();
    ImportedMemories imported;
    std::vector<std::unique_ptr<CudaChannel>> channels;
  };

  static PublishedCall* report_of(void* part, int channel) noexcept {
    return reinterpret_cast<PublishedCall*>(static_cast<char*>(part) + host_control_bytes) + channel;
  }

  /// Where the GPU sees memory of the host that was registered.
  template <class T>
  static T* on_device(const Where& where, void* memory) {
    void* seen = nullptr;
    check_cuda(where, cudaHostGetDevicePointer(&seen, memory, 0), {"the GPU does not see memory of the host"});
    return static_cast<T*>(seen);
  }

  /// Memory of the host that all ranks and their GPUs reach.
  ALLFOLD_COLD static void share_control(Meeting& meeting, State& state, std::span<const Identity> ranks,
                                         const Options& options) {
    const bool same_process =
        std::all_of(ranks.begin(), ranks.end(), [&](const Identity& r) { return r.same_process(ranks[0]); });
    const std::size_t bytes = host_control_bytes + sizeof(PublishedCall) * static_cast<std::size_t>(options.channels);
    const Where where = meeting.where();
    // Of threads, each shows its own part to the GPUs of all. Of processes, each shows what it uses of its own
    // mappings.
    if (same_process) {
      state.control =
          share_among_threads(meeting, show_to_gpus(where, std::make_shared<Mapping>(map_private(where, bytes))));
      return;
    }
    state.control = share_among_processes(meeting, *state.sharing.exchange, state.sharing.addresses, 0, bytes);
    for (int r = 0; r < state.world_size; ++r) {
      if (r == state.rank || r == 0) state.control.part[r] = show_to_gpus(where, state.control.part[r]);
    }
    meeting.barrier("control memory is shared");
  }

  /// How many blocks a call may have, so that those of all channels fit every GPU at once.
  ALLFOLD_COLD static int agree_on_blocks(Meeting& meeting, State& state, std::span<const Identity> ranks,
                                          const Options& options) {
    for (const Identity& a : ranks) {
      const auto same = [&](const Identity& b) { return a.same_device(b); };
      state.shared_by = std::max(state.shared_by, static_cast<int>(std::count_if(ranks.begin(), ranks.end(), same)));
    }
    int processors = 0;
    check_cuda(meeting.where(),
               cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, state.sharing.device),
               {"device ", state.sharing.device, " cannot be asked"});
    const std::vector<int> all = meeting.all_gather("multiprocessors", processors);
    const int fit = *std::min_element(all.begin(), all.end()) / (options.channels * state.shared_by);
    if (fit < 1) {
      throw UsageError(meeting.where(), {options.channels, " channels do not fit a GPU at once; expected at most ",
                                         processors / state.shared_by, "; try a smaller Options::channels"});
    }
    return options.blocks > 0 ? std::min(options.blocks, fit) : fit;
  }

  /// See DeviceChannelView::early_blocks. A call that is launched before the one before it has ended holds SMs while it
  /// waits: were those another channel's share, ranks that began with different channels would wait for each other.
  ALLFOLD_COLD static int blocks_that_may_overlap(const Where& where, const State& state, const Options& options,
                                                  int blocks) {
    int major = 0;
    check_cuda(where, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, state.sharing.device),
               {"device ", state.sharing.device, " cannot be asked"});
    const bool has_dependent_launch = major >= 9;
    if (!has_dependent_launch || state.shared_by > 1) return 0;
    return options.channels > 1 ? blocks / 2 : blocks;
  }

  /// The last a rank enqueues for an allocation is done when any rank has it. Else a peer's next kernel could wait for
  /// this rank on a GPU that both have, where what this rank enqueues may stand behind that kernel.
  ALLFOLD_COLD allocation_type finish_allocation(Meeting& meeting, DeviceParts parts, const Window& window,
                                                 std::size_t signals_offset, NvlinkAllocation::Imports imports = {}) {
    auto allocation = std::make_shared<NvlinkAllocation>(meeting.where(), state_->owner(), std::move(parts), window,
                                                         signals_offset, std::move(imports));
    meeting.barrier("device memory is shared");
    return allocation;
  }

  /// Proves that every rank's GPU reaches every rank's part of a buffer.
  ALLFOLD_COLD static void verify(Meeting& meeting, const State& state, const Buffer& buffer, std::size_t bytes) {
    auto* const control = static_cast<ControlBlock*>(state.control.part[state.rank]->data());
    const auto verdict = [&](ControlBlock* block) { return reinterpret_cast<int*>(&block->verify[state.rank]); };
    verify_reach(meeting, buffer, bytes, state.stream, verdict(control),
                 verdict(on_device<ControlBlock>(meeting.where(), control)));
  }

  /// The registration of just this range that still stands, if there is one.
  ALLFOLD_COLD allocation_type registered_before(const Where& where, void* pointer, std::size_t bytes) const {
    const auto hit = state_->registry->find(pointer, 1);
    if (!hit) return nullptr;
    if (hit.entry->is_registered() && hit.offset_bytes == 0 && hit.entry->window().bytes == bytes) {
      return hit.entry->shared_from_this();
    }
    throw UsageError(where, {"the range begins in symmetric allocation ", hit.entry->window().serial,
                             "; expected memory that is not symmetric yet; use that buffer, or drop it first"});
  }

  ALLFOLD_COLD static void check_known(const Where& where, const std::vector<MemoryOffer>& offers) {
    const std::uint64_t mine = offers[static_cast<std::size_t>(where.rank())].known;
    const auto text = [](std::uint64_t known) {
      return known == 0 ? std::string("not at all") : concat({"as symmetric allocation ", known});
    };
    for (std::size_t r = 0; r < offers.size(); ++r) {
      if (offers[r].known == mine) continue;
      throw MismatchError(
          where, static_cast<int>(r),
          {"ranks disagree on whether the range is registered; this rank has it ", text(mine), ", rank ", r, " ",
           text(offers[r].known), "; expected the same on all; drop the former buffer ", "on every rank first"});
    }
  }

  /// Where this rank's GPU reaches what another rank offers.
  ALLFOLD_COLD static void* reach(const Where& where, State& state, int rank, const MemoryOffer& offer,
                                  NvlinkAllocation::Imports& imports) {
    const Identity& mine = state.ranks[static_cast<std::size_t>(state.rank)];
    const Identity& theirs = state.ranks[static_cast<std::size_t>(rank)];
    if (theirs.same_process(mine)) {
      enable_peer_access(where, state.sharing.device, theirs.device, rank);
      return reinterpret_cast<void*>(offer.address);
    }
    imports.push_back(state.imported.get(where, state.sharing.device, rank, offer));
    return imports.back()->data() + offer.offset;
  }

  std::unique_ptr<State> state_;
};
static_assert(transport_policy<NvlinkTransport>);

}  // namespace ALLFOLD_ARCH_NAMESPACE

}  // namespace allfold
