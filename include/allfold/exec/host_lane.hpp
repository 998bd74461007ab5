// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/executor.hpp>
#include <allfold/exec/host_fold.hpp>
#include <allfold/exec/host_team.hpp>
#include <allfold/exec/host_wait.hpp>
#include <allfold/memory/channel.hpp>

namespace allfold {

/// The executor of CPU ranks: one thread is one lane. See algo/executor.hpp for what each member promises.
///
/// Tuned constants: bench/results/README.md.
class HostLane {
 public:
  /// From this many bytes on, what a fold or copy writes goes past the caches: about one core's second-level cache.
  static constexpr std::size_t stream_from_bytes = std::size_t{2} << 20;
  /// A published operand is fetched and folded in pieces that stay in the second-level cache.
  static constexpr std::size_t piece_bytes = std::size_t{256} << 10;

  struct Place {
    int block = 0;
    int lane = 0;
  };

  /// `scratch`: (world_size - 1) * piece_bytes of this lane's own. `group_epochs`: [peer], for barriers of a subset.
  HostLane(const ChannelView& view, HostWait& wait, const HostPeers& peers, HostTeam& team, Place place, char* scratch,
           const std::uint32_t* group_epochs) noexcept
      : view_(view),
        wait_(wait),
        peers_(peers),
        team_(team),
        place_(place),
        scratch_(scratch),
        group_epochs_(group_epochs),
        epoch_(wait.first_epoch() - 1) {}

  int rank() const noexcept { return view_.rank; }
  int world_size() const noexcept { return view_.layout.world_size; }
  int block() const noexcept { return place_.block; }
  int blocks() const noexcept { return team_.blocks(); }
  int lane() const noexcept { return place_.lane; }
  int lanes() const noexcept { return team_.lanes(); }

  void begin_round() noexcept { ++epoch_; }
  /// The epoch of the current round; after the last round, what the channel goes on from.
  std::uint32_t epoch() const noexcept { return epoch_; }

  bool sync(bool ok) noexcept { return team_.barrier(place_.block).meet(ok); }

  void signal(int peer, Leg leg) noexcept {
    store_release(view_.signal(peer, place_.block, leg, rank()), expected(peer, leg));
  }
  bool wait(int peer, Leg leg) noexcept {
    return wait_.until(view_.signal(rank(), place_.block, leg, peer), expected(peer, leg), peer);
  }

  Buffer staging(std::size_t offset) const noexcept { return view_.staging_buffer(offset); }
  std::size_t staging_bytes() const noexcept { return view_.layout.staging_bytes; }

  Buffer inputs(const Buffer& buffer) const noexcept {
    return resolved(buffer, [&](int r) { return const_cast<void*>(view_.published(r, false).in); });
  }
  Buffer outputs(const Buffer& buffer) const noexcept {
    return resolved(buffer, [&](int r) { return view_.published(r, false).out; });
  }

  void copy(void* to, const void* from, std::size_t bytes) const noexcept {
    const Range part = part_of({0, bytes}, lanes(), lane(), cache_line_bytes);
    if (part.size() != 0)
      near_copy(static_cast<char*>(to) + part.begin, static_cast<const char*>(from) + part.begin, part.size());
  }

  bool fetch(void* to, int peer, const void* from, std::size_t bytes, Reach reach) noexcept {
    if (reach == Reach::mapped || peers_.same_process) return copy(to, from, bytes), true;
    const Range part = part_of({0, bytes}, lanes(), lane(), cache_line_bytes);
    return part.size() == 0 || far_copy(static_cast<char*>(to) + part.begin, peer,
                                        static_cast<const char*>(from) + part.begin, part.size());
  }

  template <class Fold>
  bool fold(const Fold& fold, const Buffer& sources, const Operands& operands, const Buffer& targets, RankMask mask,
            std::size_t n) noexcept {
    using Source = typename Fold::source;
    using Result = typename Fold::result;
    const Range part = part_of({0, n}, lanes(), lane(), line_grain<Source>());
    if (part.size() == 0) return true;

    Result* to[max_window_ranks] = {};
    int copies = 0;
    for (int r = 0; r < world_size(); ++r) {
      if (has_rank(mask, r)) to[copies++] = static_cast<Result*>(targets.at[r]) + part.begin;
    }
    const Source* from[max_window_ranks] = {};
    for (int o = 0; o < operands.count; ++o) {
      from[o] = static_cast<const Source*>(sources.at[operands.rank[o]]) + part.begin;
    }
    const bool stream = part.size() * sizeof(Result) * static_cast<std::size_t>(copies) >= stream_from_bytes;
    if (sources.reach != Reach::published || peers_.same_process) {
      fold_near(fold, from, operands.count, to, copies, part.size(), stream);
      return true;
    }
    return fold_far(fold, from, operands, to, copies, part.size(), stream);
  }

  template <class T>
  static constexpr std::size_t packet_elems() noexcept {
    return sizeof(T) > HostPacket::payload_bytes ? 1 : HostPacket::payload_bytes / sizeof(T);
  }

  /// Whoever reads them, packets are written once: into this rank's own memory.
  template <class T>
  void post(Stage stage, const T* data, Range range, RankMask) noexcept {
    for_my_packets<T>(range, [&](std::size_t index, Range part) {
      post_packet(view_.packet(rank(), epoch_, stage, index), data + part.begin, part.size() * sizeof(T));
      return true;
    });
  }

  template <class Fold, class T>
  bool fold_posted(const Fold& fold, const T* in, Range range, T* out, RankMask, bool post_result) noexcept {
    return for_my_packets<T>(range, [&](std::size_t index, Range part) {
      const T* from[max_window_ranks] = {};
      for (int r = 0; r < world_size(); ++r) {
        if (r == rank()) {
          from[r] = in + part.begin;
        } else if (const unsigned char* data = await_packet(r, Stage::inputs, index, part.size() * sizeof(T))) {
          from[r] = reinterpret_cast<const T*>(data);
        } else {
          return false;
        }
      }
      T* const to = out + part.begin;
      fold_near(fold, from, world_size(), &to, 1, part.size(), false);
      if (post_result) {
        post_packet(view_.packet(rank(), epoch_, Stage::results, index), to, part.size() * sizeof(T));
      }
      return true;
    });
  }

  template <class T>
  bool collect(int peer, Range range, T* out) noexcept {
    return for_my_packets<T>(range, [&](std::size_t index, Range part) {
      const std::size_t bytes = part.size() * sizeof(T);
      const unsigned char* data = await_packet(peer, Stage::results, index, bytes);
      if (data != nullptr) std::memcpy(static_cast<void*>(out + part.begin), data, bytes);
      return data != nullptr;
    });
  }

 private:
  std::uint64_t expected(int peer, Leg leg) const noexcept {
    return make_signal(leg == Leg::group ? group_epochs_[peer] : epoch_, wait_.tag());
  }

  template <class Address>
  Buffer resolved(const Buffer& buffer, Address&& address) const noexcept {
    if (buffer.reach != Reach::published) return buffer;
    Buffer result = buffer;
    for (int r = 0; r < world_size(); ++r) result.at[r] = address(r);
    return result;
  }

  /// Walks over the packets of a range that are this lane's: `each(index in the vector, elements)`. A packet's lane
  /// depends on its place in the range alone.
  template <class T, class Each>
  bool for_my_packets(Range range, Each&& each) noexcept {
    constexpr std::size_t elems = packet_elems<T>();
    const std::size_t stride = static_cast<std::size_t>(blocks() * lanes());
    std::size_t k = static_cast<std::size_t>(place_.block * lanes() + place_.lane);
    for (std::size_t begin = range.begin + k * elems; begin < range.end; begin += stride * elems) {
      const std::size_t end = range.end - begin < elems ? range.end : begin + elems;
      if (!each(begin / elems, Range{begin, end})) return false;
    }
    return true;
  }

  void post_packet(HostPacket& packet, const void* data, std::size_t bytes) noexcept {
    if (bytes != 0) std::memcpy(packet.data(bytes), data, bytes);
    store_release(&packet.signal, make_signal(epoch_, wait_.tag()));
  }

  /// Null if the collective failed.
  const unsigned char* await_packet(int peer, Stage stage, std::size_t index, std::size_t bytes) noexcept {
    HostPacket& packet = view_.packet(peer, epoch_, stage, index);
    return wait_.until(&packet.signal, make_signal(epoch_, wait_.tag()), peer) ? packet.data(bytes) : nullptr;
  }

  static void near_copy(char* to, const char* from, std::size_t bytes) noexcept {
    if (bytes >= stream_from_bytes) {
      stream_copy(to, from, bytes);
    } else {
      std::memcpy(to, from, bytes);
    }
  }

  /// From another process. A peer that is gone has no memory left to read.
  bool far_copy(char* to, int peer, const char* from, std::size_t bytes) noexcept {
    if (read_memory(peers_.process[peer].process(), to, from, bytes) == 0) return true;
    return wait_.fail(ErrorCode::peer, peer);
  }

  template <class Fold>
  bool fold_far(const Fold& fold, const typename Fold::source* const* from, const Operands& operands,
                typename Fold::result* const* to, int copies, std::size_t n, bool stream) noexcept {
    using Source = typename Fold::source;
    constexpr std::size_t step = sizeof(Source) >= piece_bytes ? 1 : piece_bytes / sizeof(Source);
    for (std::size_t begin = 0; begin < n; begin += step) {
      const std::size_t count = n - begin < step ? n - begin : step;
      const Source* near[max_window_ranks] = {};
      typename Fold::result* at[max_window_ranks] = {};
      char* free = scratch_;
      for (int o = 0; o < operands.count; ++o) {
        near[o] = from[o] + begin;
        if (operands.rank[o] == rank()) continue;
        if (!far_copy(free, operands.rank[o], reinterpret_cast<const char*>(near[o]), count * sizeof(Source))) {
          return false;
        }
        near[o] = reinterpret_cast<const Source*>(free);
        free += piece_bytes;
      }
      for (int t = 0; t < copies; ++t) at[t] = to[t] + begin;
      fold_near(fold, near, operands.count, at, copies, count, stream);
    }
    return true;
  }

  const ChannelView& view_;
  HostWait& wait_;
  const HostPeers& peers_;
  HostTeam& team_;
  Place place_;
  char* scratch_;
  const std::uint32_t* group_epochs_;
  std::uint32_t epoch_;
};
static_assert(executor<HostLane>);

}  // namespace allfold
