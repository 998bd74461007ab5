// SPDX-License-Identifier: Apache-2.0
// A user's own class is as good as allfold's in every category.
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/allfold.hpp>
#include <support/ranks.hpp>

namespace {

using allfold::Deadline;
using allfold_test::over_ranks;
using allfold_test::over_threads;

/// A store: a map that the threads of one process share.
class Blackboard {
 public:
  using policy_category = allfold::store_tag;

  void set(std::string_view key, std::string_view value, Deadline) {
    const std::lock_guard lock(shared_->mutex);
    shared_->values.insert_or_assign(std::string(key), std::string(value));
    shared_->changed.notify_all();
  }
  std::string get(std::string_view key, Deadline deadline) {
    const std::string keys[] = {std::string(key)};
    std::unique_lock lock(shared_->mutex);
    wait_locked(lock, keys, deadline);
    return shared_->values.at(keys[0]);
  }
  void wait(std::span<const std::string> keys, Deadline deadline) {
    std::unique_lock lock(shared_->mutex);
    wait_locked(lock, keys, deadline);
  }
  std::int64_t add(std::string_view key, std::int64_t n, Deadline) {
    const std::lock_guard lock(shared_->mutex);
    std::string& value = shared_->values[std::string(key)];
    const std::int64_t sum = (value.empty() ? 0 : std::stoll(value)) + n;
    value = std::to_string(sum);
    shared_->changed.notify_all();
    return sum;
  }
  bool check(std::span<const std::string> keys, Deadline) {
    const std::lock_guard lock(shared_->mutex);
    return has_all(keys);
  }
  bool erase(std::string_view key, Deadline) {
    const std::lock_guard lock(shared_->mutex);
    return shared_->values.erase(std::string(key)) != 0;
  }
  std::string compare_set(std::string_view key, std::string_view expected, std::string_view desired, Deadline) {
    const std::lock_guard lock(shared_->mutex);
    std::string& value = shared_->values[std::string(key)];
    if (value == expected) value = desired;
    shared_->changed.notify_all();
    return value;
  }

 private:
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::map<std::string, std::string> values;
  };

  bool has_all(std::span<const std::string> keys) const {
    for (const std::string& key : keys) {
      if (!shared_->values.contains(key)) return false;
    }
    return true;
  }
  void wait_locked(std::unique_lock<std::mutex>& lock, std::span<const std::string> keys, Deadline deadline) {
    if (!shared_->changed.wait_until(lock, deadline.at(), [&] { return has_all(keys); })) {
      throw allfold::TimeoutError("blackboard", -1, {"nobody wrote ", keys[0]});
    }
  }

  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};
static_assert(allfold::store_policy<Blackboard>);

/// A transport: allfold's own under another name, which counts allocations.
class Courier {
 public:
  using policy_category = allfold::transport_tag;
  using channel_type = allfold::ShmTransport::channel_type;
  using allocation_type = allfold::ShmTransport::allocation_type;
  static constexpr std::string_view name = "courier";
  static constexpr int max_world_size = 4;
  static constexpr bool device = false;
  static constexpr std::size_t largest_packet_element = allfold::ShmTransport::largest_packet_element;

  allfold::Identity identity() const { return inner_.identity(); }
  std::string refusal(std::span<const allfold::Identity> ranks) const { return inner_.refusal(ranks); }
  void connect(allfold::Meeting& meeting, std::span<const allfold::Identity> ranks, const allfold::Options& options) {
    inner_.connect(meeting, ranks, options);
  }
  allocation_type allocate(allfold::Meeting& meeting, std::size_t bytes, std::uint32_t serial) {
    ++allocations_;
    return inner_.allocate(meeting, bytes, serial);
  }
  auto find(const void* pointer, std::size_t bytes) const noexcept { return inner_.find(pointer, bytes); }
  std::size_t staging_bytes() const noexcept { return inner_.staging_bytes(); }
  channel_type& channel(int index) noexcept { return inner_.channel(index); }
  std::optional<allfold::Failure> meet(const allfold::CallRecord& record, allfold::Duration timeout) {
    return inner_.meet(record, timeout);
  }
  auto failure() const noexcept { return inner_.failure(); }
  void leave() noexcept { inner_.leave(); }

  int allocations() const noexcept { return allocations_; }

 private:
  allfold::ShmTransport inner_;
  int allocations_ = 0;
};

/// A topology: each rank is linked to the next one alone.
struct Ring {
  using policy_category = allfold::topology_tag;
  allfold::LinkMatrix links(std::span<const allfold::Identity> ranks) {
    const int n = static_cast<int>(ranks.size());
    allfold::LinkMatrix matrix;
    matrix.world_size = n;
    for (int r = 0; r < n; ++r) {
      if (n > 1) matrix.connect(r, (r + 1) % n);
    }
    return matrix;
  }
};

/// A selector: packets for whatever is odd.
struct Taste {
  using policy_category = allfold::selector_tag;
  static constexpr allfold::AlgorithmSet candidates = allfold::AlgorithmSet::of(allfold::Algorithm::none) |
                                                      allfold::AlgorithmSet::of(allfold::Algorithm::one_shot_packet);
  allfold::Algorithm select(const allfold::SelectionQuery& query) const {
    const bool odd = query.bytes % 8 != 0;
    return odd && query.possible.contains(allfold::Algorithm::one_shot_packet) ? allfold::Algorithm::one_shot_packet
                                                                               : allfold::Algorithm::none;
  }
};

/// A tracer: keeps all it is told.
struct Diary {
  using policy_category = allfold::tracer_tag;
  static constexpr bool enabled = true;
  struct Entry {
    std::string operation;
    std::size_t bytes;
    std::string algorithm;
    std::uint32_t sequence;
    std::string error;
  };
  std::vector<Entry> entries;
  std::vector<int> opened;
  std::uint64_t begun = 0;
  void open(int rank, int world_size) { opened = {rank, world_size}; }
  std::uint64_t begin(const allfold::TraceEvent&) { return ++begun; }
  void record(const allfold::TraceEvent& event) {
    EXPECT(event.kind == allfold::TraceKind::operation);
    EXPECT(event.end >= event.begin);
    EXPECT(event.mark == begun);
    EXPECT(event.failed == !event.error.empty());
    EXPECT(event.in_bytes == event.out_bytes);
    entries.push_back({std::string(event.operation), event.in_bytes, std::string(event.algorithm), event.sequence,
                       std::string(event.error)});
  }
};

template <class Comm>
void expect_sums(Comm& comm, std::size_t count) {
  std::vector<int> data(count, comm.rank() + 1);
  comm.all_reduce(data, allfold::sum);
  const int expected = comm.world_size() * (comm.world_size() + 1) / 2;
  for (const int x : data) EXPECT(x == expected);
}

}  // namespace

TEST_CASE("a foreign store, given by reference") {
  for (const int world_size : {1, 2, 4}) {
    Blackboard board;
    over_threads({world_size}, [&](const allfold::Environment& environment) {
      auto comm = allfold::Communicator<Blackboard>::create(environment, board);
      expect_sums(comm, 1000);
      auto again = allfold::Communicator<Blackboard>::create(environment, board);
      expect_sums(again, 3);
    });
  }
}

TEST_CASE("a foreign transport") {
  over_ranks({1, 2, 4}, [](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<Courier>::create(environment);
    expect_sums(comm, 7);
    expect_sums(comm, 300000);
    auto symmetric = comm.template allocate<float>(1000);
    EXPECT(comm.transport().allocations() == 1);
    for (float& x : symmetric) x = 0.5F;
    comm.all_reduce(symmetric, allfold::sum);
    for (const float x : symmetric) EXPECT(x == 0.5F * static_cast<float>(comm.world_size()));
  });
}

TEST_CASE("a foreign topology: a ring of four is not fully connected, so the fallback runs") {
  over_ranks({3, 4}, [](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<Ring>::create(environment);
    const bool connected = comm.world_size() == 3;
    EXPECT(comm.topology() == (connected ? allfold::TopologyKind::fully_connected : allfold::TopologyKind::unknown));
    EXPECT((comm.would_choose<float>(4) == allfold::Algorithm::none) == !connected);
    expect_sums(comm, 100000);
    if (!connected) {
      std::vector<int> data(4);
      EXPECT_THROWS_AS(comm.all_reduce(data, allfold::sum, {.algorithm = allfold::Algorithm::one_shot}),
                       allfold::UsageError);
    }
  });
}

TEST_CASE("a foreign selector and a foreign tracer, whatever their order") {
  static_assert(std::is_same_v<allfold::Communicator<Taste, Diary>, allfold::Communicator<Diary, Taste>>);
  over_ranks({2}, [](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<Diary, Taste>::create(environment, Taste{}, Diary{});
    EXPECT(comm.would_choose<int>(3) == allfold::Algorithm::one_shot_packet);
    expect_sums(comm, 3);
    expect_sums(comm, 4);
    comm.barrier();
    const auto& entries = comm.tracer().entries;
    EXPECT(entries.size() == 3);
    EXPECT(entries[0].operation == "all_reduce");
    EXPECT(entries[0].bytes == 12);
    EXPECT(entries[0].algorithm == "one_shot_packet");
    EXPECT(entries[1].algorithm == "none");
    EXPECT(entries[2].operation == "barrier");
    EXPECT(entries[2].algorithm.empty());
    EXPECT(entries[2].sequence == 3);
    EXPECT(entries[2].error.empty());
    EXPECT(comm.tracer().opened == std::vector<int>({comm.rank(), comm.world_size()}));
  });
}

TEST_CASE("a tracer is told why a call failed") {
  over_ranks({2}, [](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<Diary>::create(environment);
    comm.barrier();
    std::string said;
    if (environment.rank == 0) {
      said = EXPECT_THROWS_AS(comm.barrier(), allfold::MismatchError);
    } else {
      std::vector<int> data(4);
      said = EXPECT_THROWS_AS(comm.all_reduce(data, allfold::sum), allfold::MismatchError);
    }
    const auto& entries = comm.tracer().entries;
    EXPECT(entries.size() == 2);
    EXPECT(entries[1].sequence == 2);
    EXPECT(entries[1].error == said);
    // What was refused never started, so it is no event.
    EXPECT_THROWS_AS(comm.barrier(), allfold::MismatchError);
    EXPECT(entries.size() == 2);
  });
}

/// A tracer that cannot work on rank 1.
struct Mute {
  using policy_category = allfold::tracer_tag;
  static constexpr bool enabled = true;
  void open(int rank, int) {
    if (rank == 1) throw allfold::UsageError("mute", {"no voice"});
  }
  void record(const allfold::TraceEvent&) {}
};

TEST_CASE("where a tracer cannot be opened, every rank is told by create") {
  over_ranks({2}, [](const allfold::Environment& environment) {
    const auto attempt = allfold::Communicator<Mute>::try_create(environment);
    EXPECT(!attempt);
    allfold_test::expect_contains(attempt.reason(), {"no voice"});
  });
}

TEST_CASE("all five at once") {
  Blackboard board;
  over_threads({2}, [&](const allfold::Environment& environment) {
    using Comm = allfold::Communicator<Diary, Taste, Ring, Courier, Blackboard>;
    auto comm = Comm::create(environment, board, Diary{});
    expect_sums(comm, 5);
    EXPECT(comm.tracer().entries.size() == 1);
  });
}
