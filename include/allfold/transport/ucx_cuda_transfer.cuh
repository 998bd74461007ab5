// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <utility>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/task.hpp>
#include <allfold/memory/cuda_pool.cuh>
#include <allfold/transport/ucx_cuda_room.cuh>
#include <allfold/transport/ucx_cuda_turns.cuh>
#include <allfold/transport/ucx_endpoint.hpp>
#include <allfold/transport/ucx_link.hpp>

namespace allfold::detail {

/// What a staged message is made of. A user's ends with a chunk that is shorter than the others, an empty one maybe: so
/// a receiver that expects another size is found out.
struct Chunks {
  std::size_t bytes;
  std::size_t chunk;
  bool of_user;

  /// So many chunks of one message are under way at most, half of them between GPU and host.
  static constexpr int most = 4;
  static constexpr int lag = most / 2;

  int count() const noexcept { return static_cast<int>(bytes / chunk + (of_user || bytes % chunk != 0 ? 1 : 0)); }
  std::size_t begin(int i) const noexcept { return static_cast<std::size_t>(i) * chunk; }
  std::size_t size(int i) const noexcept { return std::min(chunk, bytes - begin(i)); }
  std::size_t longest() const noexcept { return std::min(chunk, bytes); }
};

/// One message of memory of the GPU, in chunks through pinned memory of the host.
struct StagedMessage {
  CudaRoom& room;
  UcxLink& link;
  StagedTurns& turns;
  int peer;
  std::uint64_t call;  ///< its tag but for step and sender
  int step;
  Chunks chunks;

  BlockPool& frames() noexcept { return link.pool(); }
};

/// The pinned chunks of one message: as many as can be under way, but one where messages hold much already.
struct PinnedChunks {
  CudaBlock block[Chunks::most];
  int count = 0;

  explicit PinnedChunks(const StagedMessage& m) {
    constexpr std::size_t plenty = std::size_t{256} << 20;
    CudaPool& pool = m.room.pinned_pool();
    const int wanted = std::min(m.chunks.count(), Chunks::most);
    while (count < wanted && (count == 0 || pool.held_bytes() < plenty)) {
      block[count++] = CudaBlock(pool, m.room.where(), m.chunks.longest());
    }
  }
  void* of(int chunk) const noexcept { return block[chunk % count].data(); }
  /// How many chunks later what was begun with one is gone on with.
  int lag() const noexcept { return std::min(Chunks::lag, count - 1); }
};

inline UcxTransfer send_chunk(StagedMessage& m, int chunk, const void* from) {
  if (m.link.failure()) return UcxTransfer::refused();
  const std::uint64_t tag = UcxTag::message(m.call, m.step, m.link.rank());
  return UcxTransfer(m.link.operations().send(m.peer, tag, from, m.chunks.size(chunk)));
}

inline UcxTransfer receive_chunk(StagedMessage& m, int chunk, int from, void* to) {
  if (m.link.failure()) return UcxTransfer::refused();
  const std::uint64_t tag = UcxTag::message(m.call, m.step, from);
  return UcxTransfer(m.link.operations().receive(from, tag, to, m.chunks.size(chunk)));
}

/// After a failure the call's memory is left alone.
inline CudaStep copy_chunk(StagedMessage& m, CudaLanes::Lane lane, int chunk, void* to, const void* from) {
  if (m.link.failure()) return CudaStep::refused();
  return m.room.lanes().copy(lane, to, from, m.chunks.size(chunk));
}

inline Task<bool> send_chunks(StagedMessage& m, const void* from, int&) {
  StagedTurns::Turn turn(m.turns, m.call, m.peer, false);
  if (m.chunks.of_user) co_await Awaited{turn};
  const PinnedChunks pinned(m);
  CudaStep copied[Chunks::most];
  UcxTransfer sent[Chunks::most];
  const int chunks = m.chunks.count();
  const int lag = pinned.lag();
  for (int c = 0; c < chunks + lag; ++c) {
    if (c < chunks) {
      if (!co_await ended(sent[c % pinned.count])) co_return false;
      copied[c % pinned.count] =
          copy_chunk(m, CudaLanes::from_device, c, pinned.of(c), at_byte(from, m.chunks.begin(c)));
    }
    if (c < lag) continue;
    const int ready = c - lag;
    if (!co_await Awaited{copied[ready % pinned.count]}) co_return false;
    sent[ready % pinned.count] = send_chunk(m, ready, pinned.of(ready));
  }
  turn.pass();
  bool ok = true;
  for (UcxTransfer& each : sent) ok = co_await ended(each) && ok;
  co_return ok;
}

inline Task<bool> receive_chunks(StagedMessage& m, void* to, int& source) {
  StagedTurns::Turn turn(m.turns, m.call, m.peer, true);
  if (m.chunks.of_user) co_await Awaited{turn};
  const PinnedChunks pinned(m);
  CudaStep copied[Chunks::most];
  UcxTransfer arrival[Chunks::most];
  const int chunks = m.chunks.count();
  int lag = pinned.lag();
  source = m.peer;
  if (m.peer == any_source) {  // who sends the first sends the others
    arrival[0] = receive_chunk(m, 0, any_source, pinned.of(0));
    if (!co_await ended(arrival[0])) co_return false;
    source = arrival[0].source();
  }
  for (int c = 0; c < chunks + lag; ++c) {
    if (c < chunks && (c > 0 || m.peer != any_source)) {
      if (!co_await Awaited{copied[c % pinned.count]}) co_return false;
      arrival[c % pinned.count] = receive_chunk(m, c, source, pinned.of(c));
    }
    if (c + 1 == chunks) turn.pass();
    if (c < lag) continue;
    const int here = c - lag;
    if (!co_await ended(arrival[here % pinned.count])) co_return false;
    copied[here % pinned.count] =
        copy_chunk(m, CudaLanes::to_device, here, at_byte(to, m.chunks.begin(here)), pinned.of(here));
  }
  bool ok = true;
  for (CudaStep& each : copied) ok = co_await Awaited{each} && ok;
  co_return ok;
}

/// A staged message under way, beside the call.
class Staged {
 public:
  Staged(const StagedMessage& message) noexcept : message_(message) {}
  Staged(const Staged&) = delete;
  Staged& operator=(const Staged&) = delete;

  void send(const void* from) { start(send_chunks(message_, from, source_)); }
  void receive(void* to) { start(receive_chunks(message_, to, source_)); }

  bool over() const noexcept { return runner_.done(); }
  bool ok() const noexcept { return ok_; }
  int source() const noexcept { return source_; }
  void watch(Join& join) noexcept { runner_.watch(join); }
  BlockPool& frames() noexcept { return message_.frames(); }

 private:
  static Task<bool> run(Staged& self) {
    std::exception_ptr error;
    try {
      self.ok_ = co_await std::move(self.body_);
    } catch (...) {
      error = std::current_exception();
    }
    if (error) {  // who awaits a transfer expects no exception: the call ends with it all the same
      self.message_.room.fault().set(std::move(error));
      CudaStep failed = self.message_.room.lanes().failed();
      static_cast<void>(co_await Awaited{failed});
    }
    co_return self.ok_;
  }

  void start(Task<bool> body) {
    static_cast<void>(body_ = std::move(body));
    static_cast<void>(runner_ = run(*this));
    runner_.start();
  }

  StagedMessage message_;
  int source_ = -1;
  bool ok_ = false;
  Task<bool> body_;
  Task<bool> runner_;
};

}  // namespace allfold::detail

namespace allfold {

/// A transfer of UCX, of memory of the host or of a GPU; see algo/message/endpoint.hpp.
class UcxCudaTransfer {
 public:
  /// Over, and ok.
  UcxCudaTransfer() noexcept = default;
  UcxCudaTransfer(UcxTransfer transfer) noexcept : plain_(std::move(transfer)) {}
  /// Begins a staged one with `start(Staged&)`.
  template <class Start>
  UcxCudaTransfer(const detail::StagedMessage& message, Start&& start) {
    BlockPool& pool = message.link.pool();
    staged_ = ::new (pool.take(sizeof(detail::Staged))) detail::Staged(message);
    try {
      start(*staged_);
    } catch (...) {
      destroy();
      throw;
    }
  }
  UcxCudaTransfer(UcxCudaTransfer&& other) noexcept
      : plain_(std::move(other.plain_)), staged_(std::exchange(other.staged_, nullptr)) {}
  UcxCudaTransfer& operator=(UcxCudaTransfer&& other) noexcept {
    plain_ = std::move(other.plain_);
    std::swap(staged_, other.staged_);
    return *this;
  }
  ~UcxCudaTransfer() {
    if (staged_ != nullptr) destroy();
  }

  bool over() const noexcept { return staged_ != nullptr ? staged_->over() : plain_.over(); }
  bool ok() const noexcept { return staged_ != nullptr ? staged_->ok() : plain_.ok(); }
  /// Of a receive that is over and ok: who sent the message.
  int source() const noexcept { return staged_ != nullptr ? staged_->source() : plain_.source(); }
  void watch(Join& join) noexcept { staged_ != nullptr ? staged_->watch(join) : plain_.watch(join); }

 private:
  void destroy() noexcept {
    BlockPool& pool = staged_->frames();
    staged_->~Staged();
    pool.give(std::exchange(staged_, nullptr), sizeof(detail::Staged));
  }

  UcxTransfer plain_;
  detail::Staged* staged_ = nullptr;
};
static_assert(transfer<UcxCudaTransfer>);

}  // namespace allfold
