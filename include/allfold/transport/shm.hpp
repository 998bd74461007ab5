// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <sched.h>

#include <allfold/launch/host_channel.hpp>
#include <allfold/memory/control_block.hpp>
#include <allfold/memory/descriptor_exchange.hpp>
#include <allfold/memory/host_identity.hpp>
#include <allfold/memory/registry.hpp>
#include <allfold/memory/shared_parts.hpp>
#include <allfold/policy/transport.hpp>

namespace allfold {

/// One symmetric allocation of CPU ranks. Peers keep what they map, whoever lets go first.
class ShmAllocation {
 public:
  using Registry = RangeRegistry<ShmAllocation>;

  ShmAllocation(const Where& where, SharedParts parts, const Window& window, int rank,
                std::shared_ptr<Registry> registry)
      : parts_(std::move(parts)), registry_(std::move(registry)), window_(window), data_(window.at[rank]) {
    registry_->insert(where, data_, window_.bytes, *this);
  }
  ShmAllocation(const ShmAllocation&) = delete;
  ShmAllocation& operator=(const ShmAllocation&) = delete;
  ~ShmAllocation() { registry_->erase(data_); }

  void* data() const noexcept { return data_; }
  const Window& window() const noexcept { return window_; }

 private:
  SharedParts parts_;
  std::shared_ptr<Registry> registry_;
  Window window_;
  void* data_;
};

/// Moves bytes between ranks of one host through memory they share: segments without a name between processes,
/// plain memory between threads of one process. Private memory passes through staging memory.
class ShmTransport {
 public:
  using policy_category = transport_tag;
  using channel_type = HostChannel;
  using allocation_type = std::shared_ptr<ShmAllocation>;

  static constexpr std::string_view name = "shm";
  static constexpr int max_world_size = max_window_ranks;
  static constexpr bool device = false;
  static constexpr std::size_t largest_packet_element = HostPacket::largest_element;

  Identity identity() const { return host_identity(); }

  std::string refusal(std::span<const Identity> ranks) const {
    for (std::size_t r = 1; r < ranks.size(); ++r) {
      if (ranks[r].same_host(ranks[0])) continue;
      const bool one_kernel = ranks[r].host == ranks[0].host;
      return concat({"rank 0 (on ", ranks[0].host_name, ") and rank ", r, " (on ", ranks[r].host_name, ") run ",
                     one_kernel ? "in different namespaces of one host" : "on different hosts",
                     "; ShmTransport serves ranks that share memory; ",
                     one_kernel ? "try one container, or shared pid and network namespaces"
                                : "try a transport that crosses hosts"});
    }
    return {};
  }

  ALLFOLD_COLD void connect(Meeting& meeting, std::span<const Identity> ranks, const Options& options) {
    auto state = std::make_unique<State>();
    state->rank = meeting.rank();
    state->world_size = meeting.world_size();
    state->same_process =
        std::all_of(ranks.begin(), ranks.end(), [&](const Identity& r) { return r.same_process(ranks[0]); });
    watch(meeting, state->peers, ranks, options);
    if (!state->same_process) {
      state->exchange.emplace(meeting.where());
      state->addresses = meeting.all_gather("exchange addresses", state->exchange->address());
    }

    state->staging_bytes = options.buffer_bytes < max_staging_bytes ? options.buffer_bytes : max_staging_bytes;
    const int blocks = std::max(options.blocks, 1);
    const int lanes = std::max(options.lanes, 1);
    const ChannelLayout layout = ChannelLayout::of(state->world_size, blocks, packets, state->staging_bytes);
    state->parts = state->share(meeting, control_bytes + layout.bytes * static_cast<std::size_t>(options.channels), 0);
    state->control = static_cast<ControlBlock*>(state->parts.part[0]->data());
    verify(meeting, *state);

    for (int c = 0; c < options.channels; ++c) {
      ChannelView view{.layout = layout, .rank = state->rank};
      for (int r = 0; r < state->world_size; ++r) {
        view.part[r] = static_cast<char*>(state->parts.part[r]->data()) + control_bytes +
                       layout.bytes * static_cast<std::size_t>(c);
      }
      state->channels.push_back(std::make_unique<HostChannel>(c, view, *state->control, state->peers, lanes));
    }
    state_ = std::move(state);
  }

  ALLFOLD_COLD allocation_type allocate(Meeting& meeting, std::size_t bytes, std::uint32_t serial) {
    const SharedParts parts = state_->share(meeting, bytes, serial);
    const Window window = parts.window(bytes, serial, state_->world_size);
    return std::make_shared<ShmAllocation>(meeting.where(), parts, window, state_->rank, state_->registry);
  }

  struct Located {
    const Window* window = nullptr;
    std::size_t offset = 0;
  };
  Located find(const void* pointer, std::size_t bytes) const noexcept {
    const auto hit = state_->registry->find(pointer, bytes);
    return hit ? Located{&hit.entry->window(), hit.offset_bytes} : Located{};
  }

  std::optional<Failure> meet(const CallRecord& record, Duration timeout) {
    return launch_barrier(channel(0), record, {.timeout = timeout}, false);
  }

  std::size_t staging_bytes() const noexcept { return state_->staging_bytes; }
  HostChannel& channel(int index) noexcept { return *state_->channels[static_cast<std::size_t>(index)]; }

  std::optional<Failure> failure() const noexcept {
    const std::uint64_t word = load_acquire(&state_->control->abort);
    return word == 0 ? std::nullopt : std::optional(Failure::unpack(word));
  }

  void leave() noexcept {
    // A forked child has the object, and shares the memory, but it is not the rank.
    if (state_ && state_->process == ::getpid()) fetch_or(&state_->control->departed, only_rank(state_->rank));
  }

 private:
  /// Packets of one round and stage: enough to overlap the two motions, few enough to stay in the cache.
  static constexpr int packets = 16;
  /// More staging memory makes nothing faster on CPU ranks: a piece should stay in the cache.
  static constexpr std::size_t max_staging_bytes = std::size_t{1} << 20;
  static constexpr std::size_t control_bytes = 4096;
  static_assert(sizeof(ControlBlock) <= control_bytes);

  struct State {
    SharedParts share(Meeting& meeting, std::size_t bytes, std::uint32_t serial) {
      return same_process ? share_among_threads(meeting, bytes)
                          : share_among_processes(meeting, *exchange, addresses, serial, bytes);
    }

    int process = ::getpid();
    int rank = 0;
    int world_size = 1;
    std::size_t staging_bytes = 0;
    bool same_process = false;  ///< all ranks are threads of this process
    HostPeers peers;
    std::optional<DescriptorExchange> exchange;
    std::vector<ExchangeAddress> addresses;
    SharedParts parts;
    ControlBlock* control = nullptr;
    std::shared_ptr<ShmAllocation::Registry> registry = std::make_shared<ShmAllocation::Registry>();
    std::vector<std::unique_ptr<HostChannel>> channels;
  };

  /// Opens a watch on every peer, and counts the cores that the ranks have together.
  static void watch(Meeting& meeting, HostPeers& peers, std::span<const Identity> ranks, const Options& options) {
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      peers.process[r] = PeerProcess(ranks[r].process, ranks[r].process_start);
    }
    struct Cores {  // cpu_set_t has no name of its own, and nvcc 13 dies on the destructor call of such a type
      cpu_set_t set;
    } mine;
    CPU_ZERO(&mine.set);
    if (::sched_getaffinity(0, sizeof mine.set, &mine.set) != 0) CPU_SET(0, &mine.set);  // a machine too large for it
    cpu_set_t all;
    CPU_ZERO(&all);
    for (const Cores& theirs : meeting.all_gather("cores", mine)) CPU_OR(&all, &all, &theirs.set);
    const int lanes = std::max(options.blocks, 1) * std::max(options.lanes, 1);
    peers.crowded = lanes > CPU_COUNT(&mine.set) || static_cast<int>(ranks.size()) * lanes > CPU_COUNT(&all);
  }

  /// Writes a word into every rank's control memory and reads what the others wrote into this rank's.
  static void verify(Meeting& meeting, State& state) {
    const auto word = [](int from, int to) { return hash_mix(static_cast<std::uint64_t>(from * 64 + to + 1)); };
    const auto block = [&](int r) { return static_cast<ControlBlock*>(state.parts.part[r]->data()); };
    const int me = state.rank;
    for (int r = 0; r < state.world_size; ++r) store_release(&block(r)->verify[me], word(me, r));

    meeting.barrier("verify memory");
    for (int r = 0; r < state.world_size; ++r) {
      if (load_acquire(&block(me)->verify[r]) != word(r, me)) {
        throw PeerError(meeting.where(), r,
                        {"what rank ", r, " wrote into this rank's shared memory did not arrive; expected one memory ",
                         "that both map; see whether the ranks run in different sandboxes"});
      }
    }
  }

  std::unique_ptr<State> state_;
};
static_assert(transport_policy<ShmTransport>);

}  // namespace allfold
