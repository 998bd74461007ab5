// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <coroutine>
#include <cstdint>
#include <list>
#include <utility>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/transport/ucx_cuda_room.cuh>

namespace allfold::detail {

/// Lets staged messages of users with one tag begin one after another: the chunks of each must follow one another. Of a
/// collective every message has a step of its own.
class StagedTurns {
  struct Place {
    std::uint64_t tag;
    int peer;
    bool receives;
    std::coroutine_handle<> waiter{};
    bool called = false;
  };
  using Row = std::list<Place>;

 public:
  explicit StagedTurns(CudaRoom& room) noexcept : room_(room) {}
  StagedTurns(const StagedTurns&) = delete;
  StagedTurns& operator=(const StagedTurns&) = delete;

  /// A place in the row, from when it is made until it is passed on. Awaiting it waits for those before it.
  class Turn {
   public:
    Turn(StagedTurns& turns, std::uint64_t tag, int peer, bool receives)
        : turns_(turns), at_(turns.row_.insert(turns.row_.end(), Place{tag, peer, receives})) {}
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() { pass(); }

    bool await_ready() const noexcept { return turns_.may_go(at_); }
    void await_suspend(std::coroutine_handle<> waiter) noexcept { at_->waiter = waiter; }
    void await_resume() const noexcept { at_->waiter = nullptr; }

    void pass() noexcept {
      if (!std::exchange(holds_, false)) return;
      if (at_->called && at_->waiter) turns_.room_.take_back(at_->waiter);
      turns_.row_.erase(at_);
      turns_.call();
    }

   private:
    StagedTurns& turns_;
    Row::iterator at_;
    bool holds_ = true;
  };

 private:
  bool may_go(Row::const_iterator place) const noexcept {
    return std::none_of(row_.begin(), place, [&](const Place& earlier) {
      return earlier.tag == place->tag && earlier.receives == place->receives &&
             (earlier.peer == place->peer || earlier.peer == any_source || place->peer == any_source);
    });
  }
  void call() noexcept {
    for (auto place = row_.begin(); place != row_.end(); ++place) {
      if (!place->waiter || place->called || !may_go(place)) continue;
      place->called = true;
      room_.resume_soon(place->waiter);
    }
  }

  CudaRoom& room_;
  Row row_;
};

}  // namespace allfold::detail
