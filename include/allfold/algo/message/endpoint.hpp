// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include <allfold/algo/chunk.hpp>
#include <allfold/algo/message/parts.hpp>
#include <allfold/algo/message/reduction.hpp>
#include <allfold/algo/message/task.hpp>
#include <allfold/memory/block_pool.hpp>

namespace allfold {

/// What tells one collective from another: all its ranks have the same.
struct CollectiveId {
  std::string_view operation;  ///< for messages about errors
  int channel = 0;
  std::uint32_t sequence = 0;
  std::uint64_t record = 0;  ///< a hash of what is called
};

/// What a message of a user has in common with its receiver.
struct MessageId {
  std::string_view operation;  ///< for messages about errors
  int tag = 0;
  std::uint64_t type = 0;  ///< a hash of the elements' type
};

/// In place of a rank: a message of whichever comes first.
inline constexpr int any_source = -1;

/// In place of what a call's messages bear: none of them.
inline constexpr std::uint64_t no_call = ~std::uint64_t{0};

/// A send or a receive that has been started. `over()`: it is no longer in flight; then `ok()` says how it ended. An
/// empty one is over and ok. `watch(join)`: of one that is not over; when it is, the endpoint resumes `join.arrive()`,
/// from its progress and never from a call of send or receive. Once the transfer is dropped the join is gone.
template <class T>
concept transfer = std::movable<T> && std::default_initializable<T> && requires(T& t, const T& constant, Join& join) {
  { constant.over() } -> std::same_as<bool>;
  { constant.ok() } -> std::same_as<bool>;
  t.watch(join);
};

/// What an algorithm over messages is written over: one rank's way to its peers within one call. The endpoint adds
/// communicator, channel and sequence number to what separates messages, so that several calls can be in flight.
///
/// Awaiting gives a bool: whether the collective goes on. After false a coroutine returns at once, touching nothing;
/// who failed and why is kept by the endpoint, and all that is in flight ends with false too. The endpoint sees to it
/// that scratch memory is not used again, and that the call's buffers do not go back to their owner, before the last
/// transfer has really ended.
///
///   rank(), world_size()
///   send(peer, step, from, bytes)        starts at once. `step`, from 0 to 65535, separates the messages of one call
///                                        between two ranks; `from` is left alone until the transfer is over
///   receive(peer, step, to, bytes)       starts at once; the message must have exactly so many bytes
///   copy(to, from, bytes)                awaited; `to` may be `from`
///   fold(reduction, kind, operands, to, n)  awaited: n elements; the pointers are read before it returns
///   scratch(bytes)                       owns memory of the same kind as the call's buffers; `data()`
///   frames()                             the pool for the coroutines' frames, and for arrays the host reads
template <class E>
concept endpoint = requires(E& e, int peer, const void* from, void* to, std::size_t n,
                            const MessageReduction& reduction, std::span<const void* const> operands) {
  requires transfer<typename E::transfer_type>;
  { e.rank() } -> std::same_as<int>;
  { e.world_size() } -> std::same_as<int>;
  { e.send(peer, 0, from, n) } -> std::same_as<typename E::transfer_type>;
  { e.receive(peer, 0, to, n) } -> std::same_as<typename E::transfer_type>;
  { e.copy(to, from, n).await_resume() } -> std::same_as<bool>;
  { e.fold(reduction, FoldKind::values_to_value, operands, to, n).await_resume() } -> std::same_as<bool>;
  { e.scratch(n).data() } -> std::same_as<void*>;
  { e.frames() } -> std::same_as<BlockPool&>;
};

/// How long the pieces are in which long parts go over this endpoint: as its `piece_bytes()` says, if it has one, alike
/// on all ranks.
template <endpoint E>
std::size_t piece_bytes_of(const E& e) noexcept {
  if constexpr (requires { e.piece_bytes(); }) {
    return e.piece_bytes();
  } else {
    return piece_bytes;
  }
}

namespace detail {

/// Awaits the transfers that `visit` visits; true if all of them ended well.
template <class Visit>
class AllOver {
 public:
  explicit AllOver(Visit visit) noexcept : visit_(visit) {}

  bool await_ready() const noexcept {
    bool over = true;
    visit_([&](auto& t) { over = over && t.over(); });
    return over;
  }
  void await_suspend(std::coroutine_handle<> waiter) noexcept {
    join_.waiter = waiter;
    visit_([&](auto& t) {
      if (t.over()) return;
      ++join_.pending;
      t.watch(join_);
    });
  }
  bool await_resume() const noexcept {
    bool ok = true;
    visit_([&](auto& t) { ok = t.ok() && ok; });
    return ok;
  }

 private:
  Visit visit_;
  Join join_;
};

}  // namespace detail

/// Awaits transfers, all at once: whether all of them ended well.
template <transfer... Ts>
auto ended(Ts&... transfers) noexcept {
  return detail::AllOver([&transfers...](auto&& each) { (each(transfers), ...); });
}

/// Transfers in flight together, so many at most: enough to keep a link busy, and few enough that peers are not
/// flooded.
template <endpoint E, int Most = 16>
class InFlight {
 public:
  using transfer_type = typename E::transfer_type;

  InFlight() noexcept {}  // most calls use one place or two, so none is made before it is used
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;
  ~InFlight() { std::destroy_n(transfers_, made_); }

  /// There must be room.
  void add(transfer_type started) noexcept {
    if (first_ + count_ == made_ && made_ < Most) {
      std::construct_at(transfers_ + made_++, std::move(started));
    } else {
      at(count_) = std::move(started);
    }
    ++count_;
  }

  /// Awaits the oldest, until `n` more fit.
  auto room(int n) noexcept { return take(count_ + n - Most); }
  /// Awaits all of them.
  auto all() noexcept { return take(count_); }

 private:
  transfer_type& at(int i) noexcept { return transfers_[static_cast<unsigned>(first_ + i) % Most]; }

  auto take(int n) noexcept {
    // They leave now, and their places are not used again before they are over.
    const int from = first_;
    const int oldest = n > 0 ? n : 0;
    first_ = (first_ + oldest) % Most;
    count_ -= oldest;
    return detail::AllOver([this, from, oldest](auto&& each) {
      for (int i = 0; i < oldest; ++i) each(transfers_[static_cast<unsigned>(from + i) % Most]);
    });
  }

  union {
    transfer_type transfers_[Most];
  };
  int made_ = 0;
  int first_ = 0;
  int count_ = 0;
};

/// Memory at an offset.
inline void* at_byte(void* base, std::size_t offset) noexcept { return static_cast<char*>(base) + offset; }
inline const void* at_byte(const void* base, std::size_t offset) noexcept {
  return static_cast<const char*>(base) + offset;
}

/// Sends what `range` says of the bytes at `base`; of an empty one nothing, which its receiver knows.
template <endpoint E>
typename E::transfer_type send_range(E& e, int peer, int step, const void* base, Range range) {
  if (range.size() == 0) return {};
  return e.send(peer, step, at_byte(base, range.begin), range.size());
}

/// The other side of it.
template <endpoint E>
typename E::transfer_type receive_range(E& e, int peer, int step, void* base, Range range) {
  if (range.size() == 0) return {};
  return e.receive(peer, step, at_byte(base, range.begin), range.size());
}

/// A fold of one operand: to a partial, or from one.
template <endpoint E>
auto fold_one(E& e, const MessageReduction& reduction, FoldKind kind, const void* from, void* to, std::size_t n) {
  const void* const operands[] = {from};
  return e.fold(reduction, kind, operands, to, n);
}

/// A fold of two; `lower` is of the lower ranks.
template <endpoint E>
auto fold_pair(E& e, const MessageReduction& reduction, FoldKind kind, const void* lower, const void* upper, void* to,
               std::size_t n) {
  const void* const operands[] = {lower, upper};
  return e.fold(reduction, kind, operands, to, n);
}

/// Steps of a collective that is made of several begin here, each part with its own: no part has more than 4096.
constexpr int phase(int part) noexcept { return part << 12; }

/// The most ranks of a message transport: bounded by how steps are numbered.
inline constexpr int max_message_ranks = 4096;

/// `rank` moved by `distance`, which is less than the world size, around the ring of ranks.
constexpr int ring_rank(int rank, int distance, int world_size) noexcept {
  const int moved = rank + distance;
  return moved < 0 ? moved + world_size : moved < world_size ? moved : moved - world_size;
}

}  // namespace allfold
