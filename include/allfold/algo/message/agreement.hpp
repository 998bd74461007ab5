// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include <allfold/algo/message/all_gather.hpp>
#include <allfold/algo/message/endpoint.hpp>
#include <allfold/base/error.hpp>

namespace allfold::message {

/// What a rank says that it calls.
struct Claim {
  std::uint64_t hash;
  std::uint64_t memory;  ///< its kind; 0: none, which goes with any
  char text[152];

  bool agrees_with(const Claim& other) const noexcept {
    return hash == other.hash && (memory == other.memory || memory == 0 || other.memory == 0);
  }
};

/// Where an endpoint takes several kinds of memory: what is said beside the call's buffers lies on the host.
template <class E>
class OnHost {
 public:
  explicit OnHost(E& e) noexcept : endpoint_(e) {
    if constexpr (has_kinds) endpoint_.set_on_host(true);
  }
  OnHost(const OnHost&) = delete;
  OnHost& operator=(const OnHost&) = delete;
  ~OnHost() {
    if constexpr (has_kinds) endpoint_.set_on_host(false);
  }

 private:
  static constexpr bool has_kinds = requires(E& e) { e.set_on_host(true); };
  E& endpoint_;
};

/// Runs `next` once all ranks have said that they call the same. @throws MismatchError with both sides
template <endpoint E>
Task<bool> after_agreement(E& e, const Claim mine, const Where where, Task<bool> next) {
  const std::size_t ranks = static_cast<std::size_t>(e.world_size());
  const BlockArray<Claim> claims(e.frames(), ranks);
  // Steps of their own: those of `next` begin at 0.
  {
    const OnHost<E> on_host(e);
    if (!co_await all_gather_bruck(e, &mine, claims.data(), sizeof(Claim), phase(7))) co_return false;
  }
  for (std::size_t r = 0; r < ranks; ++r) {
    if (claims[r].agrees_with(mine)) continue;
    throw MismatchError(where, static_cast<int>(r),
                        {"ranks disagree; this rank calls ", std::string_view(mine.text), ", but rank ", r, " calls ",
                         std::string_view(claims[r].text), "; every rank must make the same calls in the same order"});
  }
  co_return co_await std::move(next);
}

}  // namespace allfold::message
