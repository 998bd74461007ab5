// SPDX-License-Identifier: Apache-2.0

/// A store of one's own: where ranks meet is the program's choice. This one is a board in memory, for ranks that are
/// threads; a client of etcd, Redis or a batch system would have the same seven functions.

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <allfold/allfold.hpp>
#include <allfold/spawn.hpp>

namespace {

/// Keys and values that all threads see.
class Board {
 public:
  using policy_category = allfold::store_tag;

  void set(std::string_view key, std::string_view value, allfold::Deadline) {
    const std::lock_guard lock(mutex_);
    put(key, value);
  }

  std::string get(std::string_view key, allfold::Deadline deadline) {
    std::unique_lock lock(mutex_);
    await(lock, key, deadline);
    return values_.find(key)->second;
  }

  void wait(std::span<const std::string> keys, allfold::Deadline deadline) {
    std::unique_lock lock(mutex_);
    for (const std::string& key : keys) await(lock, key, deadline);
  }

  std::int64_t add(std::string_view key, std::int64_t n, allfold::Deadline) {
    const std::lock_guard lock(mutex_);
    const auto at = values_.find(key);
    const std::int64_t sum = (at == values_.end() ? 0 : std::strtoll(at->second.c_str(), nullptr, 10)) + n;
    put(key, std::to_string(sum));
    return sum;
  }

  bool check(std::span<const std::string> keys, allfold::Deadline) {
    const std::lock_guard lock(mutex_);
    for (const std::string& key : keys) {
      if (!values_.contains(key)) return false;
    }
    return true;
  }

  bool erase(std::string_view key, allfold::Deadline) {
    const std::lock_guard lock(mutex_);
    const auto at = values_.find(key);
    if (at == values_.end()) return false;
    values_.erase(at);
    return true;
  }

  std::string compare_set(std::string_view key, std::string_view expected, std::string_view desired,
                          allfold::Deadline) {
    const std::lock_guard lock(mutex_);
    const auto at = values_.find(key);
    std::string now = at == values_.end() ? "" : at->second;
    if (now != expected) return now;
    put(key, desired);
    return std::string(desired);
  }

  std::size_t size() const { return values_.size(); }

 private:
  void put(std::string_view key, std::string_view value) {
    values_.insert_or_assign(std::string(key), std::string(value));
    changed_.notify_all();
  }

  /// Every wait of a store ends by its deadline.
  void await(std::unique_lock<std::mutex>& lock, std::string_view key, allfold::Deadline deadline) {
    if (!changed_.wait_until(lock, deadline.at(), [&] { return values_.contains(key); })) {
      throw allfold::TimeoutError("Board", -1, {"no rank has set the key ", key, " in time"});
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string, std::less<>> values_;
};
static_assert(allfold::store_policy<Board>);

}  // namespace

int main() {
  Board board;
  constexpr int ranks = 3;
  allfold::launch(ranks,
                  [&](const allfold::Environment& environment) {
                    auto comm = allfold::Communicator<Board>::create(environment, board);
                    std::vector<long> x = {1L << comm.rank()};
                    comm.all_reduce(x, allfold::sum);
                    if (x[0] != (1L << ranks) - 1) throw std::runtime_error("foreign_store: the sum is wrong");
                    if (comm.rank() == 0)
                      std::printf("%d ranks met on a board in memory: 1 + 2 + 4 = %ld\n", ranks, x[0]);
                  },
                  {.ranks = allfold::Ranks::threads});
}
