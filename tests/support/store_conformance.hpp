// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/policy/store.hpp>

/// What every store promises (policy/store.hpp), checked on any of them.

namespace allfold_test {

using Strings = std::vector<std::string>;

inline allfold::Deadline within_ms(int ms) { return allfold::Deadline::after(std::chrono::milliseconds(ms)); }
inline allfold::Deadline soon() { return within_ms(20000); }

/// The message of the Error that `action` throws; a failed check if it throws none.
template <class Error, class Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  FAIL_CHECK("expected an exception, and there was none");
  return {};
}

inline bool contains(std::string_view text, std::string_view part) {
  const bool found = text.find(part) != std::string_view::npos;
  if (!found) MESSAGE("\"" << std::string(text) << "\" does not contain \"" << std::string(part) << "\"");
  return found;
}

/// Runs body(i) on n threads. A throw on any of them fails the check.
template <class Body>
void on_threads(int n, const Body& body) {
  std::vector<std::string> failures(static_cast<std::size_t>(n));
  std::vector<std::thread> threads;
  threads.reserve(failures.size());
  for (int i = 0; i < n; ++i) {
    threads.emplace_back([&, i] {
      try {
        body(i);
      } catch (const std::exception& error) {
        failures[static_cast<std::size_t>(i)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& failure : failures) CHECK(failure == "");
}

template <class S>
void check_values(S& a, S& b) {
  a.set("value", "one", soon());
  CHECK(b.get("value", soon()) == "one");
  b.set("value", "two", soon());
  CHECK(a.get("value", soon()) == "two");
  a.set("value", "", soon());
  CHECK(b.get("value", soon()) == "");

  // Keys and values are any bytes, and no key is taken for another.
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  const Strings keys = {"",
                        " ",
                        "/",
                        "..",
                        ".",
                        "%2f",
                        "a/b",
                        "a%2fb",
                        "A",
                        "a",
                        "lock",
                        "pending",
                        "k.a",
                        bytes,
                        std::string("nul\0nul", 7),
                        std::string(4096, 'x'),
                        std::string(4095, 'x') + "y"};
  for (const std::string& key : keys) {
    CHECK_FALSE(b.check(Strings{key}, soon()));
    a.set(key, "value of " + key, soon());
  }
  for (const std::string& key : keys) CHECK(b.get(key, soon()) == "value of " + key);
  CHECK(b.check(keys, soon()));
  for (const std::string& key : keys) CHECK(b.erase(key, soon()));
  for (const std::string& key : keys) CHECK_FALSE(a.check(Strings{key}, soon()));

  std::string large(3000000, '\0');
  for (std::size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>(i * 2654435761U >> 13);
  a.set("large", large, soon());
  CHECK((b.get("large", soon()) == large));
  CHECK((b.compare_set("large", large, "small", soon()) == "small"));
}

template <class S>
void check_presence(S& a, S& b) {
  CHECK(a.check(Strings{}, soon()));
  CHECK_FALSE(a.check(Strings{"here"}, soon()));
  CHECK_FALSE(a.erase("here", soon()));
  b.set("here", "", soon());
  CHECK(a.check(Strings{"here"}, soon()));
  CHECK_FALSE(a.check(Strings{"here", "there"}, soon()));
  CHECK(a.erase("here", soon()));
  CHECK_FALSE(b.erase("here", soon()));
  CHECK_FALSE(b.check(Strings{"here"}, soon()));
}

template <class S>
void check_add(S& a, S& b) {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();
  CHECK(a.add("sum", 5, soon()) == 5);
  CHECK(b.add("sum", -12, soon()) == -7);
  CHECK(b.get("sum", soon()) == "-7");
  CHECK(a.add("sum", 0, soon()) == -7);
  a.set("sum", "41", soon());
  CHECK(b.add("sum", 1, soon()) == 42);
  CHECK(a.add("least", least, soon()) == least);
  CHECK(a.add("least", 1, soon()) == least + 1);
  CHECK(a.add("most", most, soon()) == most);
  CHECK(contains(message_of<allfold::UsageError>([&] { a.add("most", 1, soon()); }), "overflows"));
  CHECK(b.get("most", soon()) == "9223372036854775807");
  for (const char* text : {"", "apple", "1.5", " 1", "1 ", "+1", "-", "--1", "0x10"}) {
    a.set("text", text, soon());
    CHECK(contains(message_of<allfold::UsageError>([&] { b.add("text", 1, soon()); }), "text\" holds no number"));
    CHECK(a.get("text", soon()) == text);
  }
}

template <class S>
void check_compare_set(S& a, S& b) {
  CHECK(a.compare_set("lock", "someone", "me", soon()) == "");
  CHECK_FALSE(a.check(Strings{"lock"}, soon()));
  CHECK(a.compare_set("lock", "", "a", soon()) == "a");
  CHECK(b.compare_set("lock", "", "b", soon()) == "a");
  CHECK(b.compare_set("lock", "a", "b", soon()) == "b");
  CHECK(a.get("lock", soon()) == "b");
  CHECK(a.compare_set("lock", "b", "", soon()) == "");
  CHECK(a.check(Strings{"lock"}, soon()));
}

template <class S>
void check_deadlines(S& a, S& b) {
  const auto start = allfold::Clock::now();
  const std::string late = message_of<allfold::TimeoutError>([&] { a.get("never\n", within_ms(30)); });
  CHECK(contains(late, "never\\0a\" did not appear"));
  b.set("there", "", soon());
  CHECK(contains(message_of<allfold::TimeoutError>([&] { a.wait(Strings{"there", "not there"}, within_ms(30)); }),
                 "not there\""));
  CHECK(allfold::Clock::now() - start >= std::chrono::milliseconds(60));
  CHECK(allfold::Clock::now() - start < std::chrono::seconds(10));
  // A call that ran out leaves the store in order.
  b.set("never\n", "now", soon());
  CHECK(a.get("never\n", soon()) == "now");
  // A deadline that has passed already is an error, or an answer: nothing waits for long.
  message_of<allfold::TimeoutError>([&] { a.get("nothing", within_ms(-1000)); });
}

template <class S>
void check_waiting(S& a, S& b) {
  on_threads(2, [&](int i) {
    if (i == 0) {
      b.set("ready", "", soon());
      const std::string value = a.get("late", soon());
      if (value != "value") throw std::runtime_error("get returned " + value);
      a.wait(Strings{"ready", "k0", "k1", "k2"}, soon());
      a.wait(Strings{}, soon());
    } else {
      b.wait(Strings{"ready"}, soon());
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      b.set("late", "value", soon());
      for (const char* key : {"k2", "k0", "k1"}) b.set(key, "", soon());
    }
  });
  // Each way to make a key ends a wait.
  on_threads(2, [&](int i) {
    if (i == 0) {
      a.wait(Strings{"added"}, soon());
      a.wait(Strings{"compared"}, soon());
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      b.add("added", 1, soon());
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      b.compare_set("compared", "", "x", soon());
    }
  });
}

template <class Make>
void check_concurrency(const Make& make) {
  constexpr int threads = 4;
  constexpr int rounds = 50;
  std::atomic<std::int64_t> last = 0;
  std::atomic<int> winners = 0;
  on_threads(threads, [&](int me) {
    auto store = make();
    for (int i = 0; i < rounds; ++i) {
      const std::int64_t sum = store.add("count", 1, soon());
      if (sum == threads * rounds) last = sum;
      // A reader sees a whole value, never a mixture of two.
      const std::string mine(1000 + static_cast<std::size_t>(me), static_cast<char>('a' + me));
      store.set("whole", mine, soon());
      const std::string seen = store.get("whole", soon());
      if (seen != std::string(1000 + static_cast<std::size_t>(seen[0] - 'a'), seen[0])) {
        throw std::runtime_error("a torn value: " + seen);
      }
      const std::string key = "won " + std::to_string(i);
      if (store.compare_set(key, "", std::to_string(me), soon()) == std::to_string(me)) ++winners;
    }
  });
  CHECK(last == threads * rounds);
  CHECK(winners == rounds);
}

/// `make()` gives one more handle to one and the same store, empty at first, as another rank gets it.
template <class Make>
void check_store_conformance(const Make& make) {
  auto a = make();
  auto b = make();
  static_assert(allfold::store_policy<decltype(a)>);
  check_values(a, b);
  check_presence(a, b);
  check_add(a, b);
  check_compare_set(a, b);
  check_deadlines(a, b);
  check_waiting(a, b);
  check_concurrency(make);
}

/// Several threads may use one object, and one that waits does not hold up the others.
template <class S>
void check_shared_object(S& store) {
  on_threads(4, [&](int me) {
    const std::string mine = std::to_string(me);
    const std::string left = std::to_string((me + 1) % 4);
    const auto key = [](int of, int i) { return "shared" + std::to_string(of) + "/" + std::to_string(i); };
    for (int i = 0; i < 50; ++i) {
      if (me != 0) store.wait(Strings{key(me - 1, i)}, soon());
      store.set(key(me, i), mine, soon());
      if (store.get(key((me + 1) % 4, i), soon()) != left) throw std::runtime_error("another thread's reply");
    }
  });
}

}  // namespace allfold_test
