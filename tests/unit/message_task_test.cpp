// SPDX-License-Identifier: Apache-2.0
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/task.hpp>
#include <allfold/memory/block_pool.hpp>

using allfold::Block;
using allfold::BlockPool;
using allfold::Join;
using allfold::Task;

namespace {

struct Owner {
  BlockPool pool;
  BlockPool& frames() noexcept { return pool; }
};

/// A transfer whose end the test decides.
struct ByHand {
  struct State {
    Join* join = nullptr;
    bool over = false;
    bool ok = false;

    void end(bool well) {
      over = true;
      ok = well;
      if (join != nullptr) join->arrive().resume();
    }
  };
  State* state = nullptr;

  bool over() const noexcept { return state == nullptr || state->over; }
  bool ok() const noexcept { return state == nullptr || state->ok; }
  void watch(Join& join) noexcept { state->join = &join; }
};
static_assert(allfold::transfer<ByHand>);

Task<int> seven(Owner&) { co_return 7; }
Task<int> twice(Owner& owner, Task<int> of) {
  (void)owner;
  co_return 2 * co_await std::move(of);
}
Task<int> refuses(Owner&, bool& reached) {
  reached = true;
  throw std::runtime_error("refused");
  co_return 0;
}
Task<int> depth(Owner& owner, int levels) {
  if (levels == 0) co_return 0;
  co_return 1 + co_await depth(owner, levels - 1);
}
Task<bool> waits(Owner&, ByHand a, ByHand b) { co_return co_await allfold::ended(a, b); }

}  // namespace

TEST_CASE("BlockPool gives back what it was given, and asks for memory once") {
  BlockPool pool;
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{65}, std::size_t{100}, std::size_t{4096},
                                  std::size_t{5000}, std::size_t{1000000}}) {
    const std::size_t before = pool.allocations();
    void* const first = pool.take(bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(first) % 64 == 0);
    std::memset(first, 0x5a, bytes);
    void* const second = pool.take(bytes);
    CHECK(second != first);
    pool.give(first, bytes);
    CHECK(pool.take(bytes) == first);
    pool.give(first, bytes);
    pool.give(second, bytes);
    CHECK(pool.allocations() == before + 2);
  }
  CHECK_THROWS_AS(pool.take(~std::size_t{0}), std::bad_alloc);
}

TEST_CASE("BlockPool: every block has room for what was asked for") {
  BlockPool pool;
  for (std::size_t bytes = 1; bytes < 3000; ++bytes) {
    const Block block(pool, bytes);
    std::memset(block.data(), 0x5a, bytes);  // asan watches
  }
  CHECK(pool.allocations() <= 4 * 6 + 1);
}

TEST_CASE("Block moves, and gives its memory back once") {
  BlockPool pool;
  Block a(pool, 100);
  void* const at = a.data();
  Block b(std::move(a));
  CHECK(b.data() == at);
  a = Block(pool, 100);
  CHECK(a.data() != at);
  a = std::move(b);
  CHECK(a.data() == at);
  a = Block();
  CHECK(pool.allocations() == 2);
}

TEST_CASE("a task runs when it is awaited, and hands its result over") {
  Owner owner;
  Task<int> fourteen = twice(owner, seven(owner));
  CHECK_FALSE(fourteen.done());
  fourteen.start();
  CHECK(fourteen.done());
  CHECK(fourteen.result() == 14);
}

TEST_CASE("an exception crosses to who awaits a task") {
  Owner owner;
  bool reached = false;
  Task<int> task = twice(owner, refuses(owner, reached));
  CHECK_FALSE(reached);
  task.start();
  CHECK(reached);
  CHECK(task.done());
  CHECK_THROWS_WITH_AS(task.result(), "refused", std::runtime_error);
}

TEST_CASE("tasks await tasks, and their frames come from the pool of their first argument that has one") {
  Owner owner;
  for (int round = 0; round < 3; ++round) {
    Task<int> task = depth(owner, 500);
    task.start();
    CHECK(task.result() == 500);
    const std::size_t frames = owner.pool.allocations();  // a compiler may put the outermost on the stack
    CHECK((frames == 500 || frames == 501));
  }
}

TEST_CASE("a task that is dropped while it waits lets go of its frame") {
  Owner owner;
  ByHand::State a, b;
  {
    Task<bool> task = waits(owner, {&a}, {&b});
    task.start();
    CHECK_FALSE(task.done());
  }
  Task<bool> again = waits(owner, {&a}, {&b});
  CHECK(owner.pool.allocations() <= 1);
}

TEST_CASE("tasks side by side: all begin before one is over, and all are waited for") {
  Owner owner;
  for (const int failed : {0, 1, 2}) {
    ByHand::State a, b;
    const auto both = [&](Owner& of) -> Task<bool> {
      co_return co_await allfold::SideBySide(waits(of, {&a}, {}), waits(of, {}, {}), waits(of, {&b}, {}));
    };
    Task<bool> task = both(owner);
    task.start();
    CHECK(a.join != nullptr);
    CHECK(b.join != nullptr);
    b.end(failed != 2);
    CHECK_FALSE(task.done());
    a.end(failed != 1);
    CHECK(task.done());
    CHECK(task.result() == (failed == 0));
  }
  const auto at_once = [](Owner& of) -> Task<bool> {
    co_return co_await allfold::SideBySide(waits(of, {}, {}), waits(of, {}, {}));
  };
  Task<bool> task = at_once(owner);
  task.start();
  CHECK(task.result());
}

TEST_CASE("ended: the last transfer resumes, and one that failed makes false") {
  for (const bool well : {true, false}) {
    Owner owner;
    ByHand::State a, b;
    Task<bool> task = waits(owner, {&a}, {&b});
    task.start();
    b.end(well);
    CHECK_FALSE(task.done());
    a.end(true);
    CHECK(task.done());
    CHECK(task.result() == well);
  }
  Owner owner;
  Task<bool> nothing = waits(owner, {}, {});
  nothing.start();
  CHECK(nothing.result());
}
