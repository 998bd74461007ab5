// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unistd.h>

#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/store/store_ref.hpp>

namespace allfold {

/// Exchanges through the store in which nobody waits for a rank that has failed: whoever fails leaves word why, and
/// whoever waits looks for it.
class StoreGather {
 public:
  StoreGather(StoreRef store, std::string prefix, Where where, int rank, int world_size, Deadline deadline)
      : store_(store),
        prefix_(std::move(prefix)),
        where_(where),
        deadline_(deadline),
        timeout_(deadline.remaining()),
        rank_(rank),
        world_size_(world_size) {}

  /// Every rank's bytes for `mine`, by rank. The first rank of each group puts what its group says in one value, so
  /// that P ranks ask the store about P * P / group_ranks times, and not P * P.
  std::vector<std::string> operator()(std::string_view step, std::string_view mine) {
    const std::string name = concat({prefix_, "/", steps_++, "/"});
    store_.set(concat({name, rank_}), sealed(mine), deadline_);
    if (rank_ % group_ranks == 0) {
      std::string packed;
      pack(packed, mine);
      for (int r = rank_ + 1; r < group_end(rank_); ++r) pack(packed, get(name, concat({r}), r, step));
      store_.set(concat({name, group_key(rank_)}), sealed(packed), deadline_);
    }
    std::vector<std::string> all;
    all.reserve(static_cast<std::size_t>(world_size_));
    for (int first = 0; first < world_size_; first += group_ranks) {
      unpack(get(name, group_key(first), first, step), first, step, all);
    }
    return all;
  }

  /// Leaves word why this rank fails, unless another was first. Never throws: the failure itself is on its way.
  void give_up(std::string_view reason) noexcept {
    if (told_) return;
    try {
      const Deadline soon = Deadline::after(std::chrono::seconds(2));
      store_.compare_set(gave_up_key(), "", concat({rank_, " ", reason}), soon);
    } catch (const std::exception&) {
      // The store is gone as well: the others notice that themselves.
    }
  }

  /// For the rank that serves the store, after a failure: waits until the others have heard of it, half a second at
  /// most.
  void linger() noexcept {
    try {
      const Deadline soon = Deadline::after(std::chrono::milliseconds(500));
      while (store_.add(heard_key(), 0, soon) + 1 < world_size_ && !soon.expired()) ::usleep(5000);
    } catch (const std::exception&) {
      // Whoever has not heard sees the store go.
    }
  }

  /// Removes this rank's values of all steps but the last, which others may still be reading.
  void tidy() noexcept {
    try {
      for (int step = 0; step + 1 < steps_; ++step) {
        const std::string name = concat({prefix_, "/", step, "/"});
        store_.erase(concat({name, rank_}), Deadline::after(std::chrono::seconds(2)));
        if (rank_ % group_ranks == 0) store_.erase(name + group_key(rank_), Deadline::after(std::chrono::seconds(2)));
      }
    } catch (const std::exception&) {
      // Values left in a store harm nobody.
    }
  }

 private:
  std::string gave_up_key() const { return concat({prefix_, "/gave_up"}); }
  std::string heard_key() const { return concat({prefix_, "/gave_up/heard"}); }

  /// Value `key` of a step, which `from` gives.
  std::string get(const std::string& name, const std::string& key, int from, std::string_view step) {
    std::string value = wait_for(name, key, from, step);
    std::int64_t theirs = 0;
    if (value.size() >= sizeof theirs) std::memcpy(&theirs, value.data(), sizeof theirs);
    if (theirs != world_size_) {
      throw MismatchError(where_, from,
                          {"ranks disagree on the world size; this rank has ", world_size_, ", but rank ", from,
                           " has ", theirs, "; every rank must be started with the same"});
    }
    return value.substr(sizeof theirs);
  }

  /// With the world size before it: ranks that disagree on it would wait for one another.
  std::string sealed(std::string_view value) const {
    const std::int64_t mine = world_size_;
    std::string whole(reinterpret_cast<const char*>(&mine), sizeof mine);
    return whole.append(value);
  }

  std::string wait_for(const std::string& name, const std::string& key, int from, std::string_view step) {
    for (;;) {
      try {
        return store_.get(name + key, deadline_.sooner(Deadline::after(std::chrono::milliseconds(200))));
      } catch (const TimeoutError&) {
        look_around(name, step);
        // The key came with the deadline: a store that is a network away needs a moment to bring it.
        if (deadline_.expired()) return get_late(name + key, from, step);
      }
    }
  }

  std::string get_late(const std::string& key, int from, std::string_view step) {
    try {
      return store_.get(key, Deadline::after(std::chrono::seconds(2)));
    } catch (const TimeoutError&) {
      throw_missing(from, concat({from}), step);
    }
  }

  void look_around(const std::string& name, std::string_view step) {
    const Deadline soon = Deadline::after(std::chrono::seconds(2));
    const std::string key[] = {gave_up_key()};
    if (store_.check(key, soon)) {
      const std::string word = store_.get(key[0], soon);
      const std::size_t space = word.find(' ');
      told_ = true;
      store_.add(heard_key(), 1, soon);
      throw PeerError(where_, std::atoi(word.c_str()),
                      {"rank ", word.substr(0, space), " gave up: ", word.substr(space + 1)});
    }
    if (!deadline_.expired()) return;
    std::string missing;
    int first = -1;
    for (int r = 0; r < world_size_; ++r) {
      const std::string theirs[] = {concat({name, r})};
      if (store_.check(theirs, soon)) continue;
      missing += concat({missing.empty() ? "" : ", ", r});
      if (first < 0) first = r;
    }
    if (first >= 0) throw_missing(first, missing, step);
  }

  [[noreturn]] void throw_missing(int first, std::string_view ranks, std::string_view step) const {
    throw TimeoutError(
        where_, first,
        {"rank ", ranks, " of ", world_size_, " did not arrive (at \"", step, "\"); expected all within ",
         milliseconds(timeout_), " ms; see whether they were started and meet at the same place"});
  }

  static constexpr int group_ranks = 32;
  int group_end(int first) const noexcept { return std::min(first + group_ranks, world_size_); }
  static std::string group_key(int first) { return concat({"from ", first}); }

  static void pack(std::string& packed, std::string_view value) {
    const std::uint64_t size = value.size();
    packed.append(reinterpret_cast<const char*>(&size), sizeof size);
    packed.append(value);
  }

  void unpack(std::string_view packed, int first, std::string_view step, std::vector<std::string>& all) const {
    for (int r = first; r < group_end(first); ++r) {
      std::uint64_t size = 0;
      const bool has_size = packed.size() >= sizeof size;
      if (has_size) {
        std::memcpy(&size, packed.data(), sizeof size);
        packed.remove_prefix(sizeof size);
      }
      if (!has_size || size > packed.size()) {
        throw MismatchError(
            where_, first,
            {"rank ", first, " gathered fewer values for \"", step, "\" than its ", group_end(first) - first,
             " ranks have; all ranks must run the same build of the program"});
      }
      all.emplace_back(packed.substr(0, size));
      packed.remove_prefix(size);
    }
  }

  StoreRef store_;
  std::string prefix_;
  Where where_;
  Deadline deadline_;
  Duration timeout_;
  int rank_;
  int world_size_;
  int steps_ = 0;
  bool told_ = false;
};

}  // namespace allfold
