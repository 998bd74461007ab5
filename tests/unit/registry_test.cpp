// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/memory/registry.hpp>

namespace {

using allfold::RangeRegistry;
using allfold::UsageError;

struct Entry {
  std::uintptr_t base = 0;
  std::size_t bytes = 0;
};

const void* at(std::uintptr_t address) { return reinterpret_cast<const void*>(address); }

TEST_CASE("a range is found from anywhere within it, with its offset") {
  RangeRegistry<Entry> registry;
  Entry low;
  Entry high;
  registry.insert("test", at(0x3000), 0x100, high);
  registry.insert("test", at(0x1000), 0x100, low);
  CHECK(registry.size() == 2);
  for (const auto& [base, entry] : {std::pair{std::uintptr_t{0x1000}, &low}, {std::uintptr_t{0x3000}, &high}}) {
    CHECK(registry.find(at(base), 0x100).entry == entry);
    CHECK(registry.find(at(base), 0x100).offset_bytes == 0);
    CHECK(registry.find(at(base + 0x40), 0xc0).entry == entry);
    CHECK(registry.find(at(base + 0x40), 0xc0).offset_bytes == 0x40);
    CHECK(registry.find(at(base + 0xff), 1).offset_bytes == 0xff);
    CHECK_FALSE(registry.find(at(base + 0x40), 0));  // no bytes lie nowhere
  }
}

TEST_CASE("what sticks out of a range is not found") {
  RangeRegistry<Entry> registry;
  Entry entry;
  CHECK_FALSE(registry.find(at(0x1000), 1));
  registry.insert("test", at(0x1000), 0x100, entry);
  CHECK_FALSE(registry.find(at(0xfff), 2));
  CHECK_FALSE(registry.find(at(0xfff), 1));
  CHECK_FALSE(registry.find(at(0x1000), 0x101));
  CHECK_FALSE(registry.find(at(0x10ff), 2));
  CHECK_FALSE(registry.find(at(0x1100), 1));
  CHECK_FALSE(registry.find(at(0x1100), 0));
  CHECK_FALSE(registry.find(at(0x1080), SIZE_MAX));
  CHECK_FALSE(registry.find(nullptr, 0));
}

TEST_CASE("neighbours that touch are two ranges, and nothing spans both") {
  RangeRegistry<Entry> registry;
  Entry a;
  Entry b;
  registry.insert("test", at(0x1000), 0x100, a);
  registry.insert("test", at(0x1100), 0x100, b);
  CHECK(registry.find(at(0x10ff), 1).entry == &a);
  CHECK(registry.find(at(0x1100), 1).entry == &b);
  CHECK_FALSE(registry.find(at(0x1080), 0x100));
}

TEST_CASE("overlapping and impossible ranges are usage errors that change nothing") {
  RangeRegistry<Entry> registry;
  Entry entry;
  registry.insert("test", at(0x1000), 0x100, entry);
  CHECK_THROWS_AS(registry.insert("test", at(0x1000), 0x100, entry), UsageError);
  CHECK_THROWS_AS(registry.insert("test", at(0x10ff), 1, entry), UsageError);
  CHECK_THROWS_AS(registry.insert("test", at(0xfff), 2, entry), UsageError);
  CHECK_THROWS_AS(registry.insert("test", at(0x800), 0x1000, entry), UsageError);
  CHECK_THROWS_AS(registry.insert("test", at(0x2000), 0, entry), UsageError);
  CHECK_THROWS_AS(registry.insert("test", nullptr, 1, entry), UsageError);
  CHECK_THROWS_AS(registry.insert("test", at(UINTPTR_MAX), 2, entry), UsageError);
  CHECK(registry.size() == 1);
}

TEST_CASE("an erased range is forgotten, the last hit too") {
  RangeRegistry<Entry> registry;
  Entry a;
  Entry b;
  registry.insert("test", at(0x1000), 0x100, a);
  registry.insert("test", at(0x2000), 0x100, b);
  REQUIRE(registry.find(at(0x2000), 1).entry == &b);
  CHECK_FALSE(registry.erase(at(0x2001)));
  CHECK_FALSE(registry.erase(at(0x800)));
  CHECK(registry.erase(at(0x2000)));
  CHECK_FALSE(registry.erase(at(0x2000)));
  CHECK_FALSE(registry.find(at(0x2000), 1));
  CHECK(registry.find(at(0x1000), 1).entry == &a);
  registry.insert("test", at(0x2000), 0x10, a);
  CHECK(registry.find(at(0x2000), 1).entry == &a);
}

TEST_CASE("random inserts, erases and lookups agree with a linear search") {
  const unsigned seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  const auto below = [&random](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  std::vector<Entry> slots(64);  // slot i may hold a range within [1000 * (i + 1), 1000 * (i + 2))
  RangeRegistry<Entry> registry;
  for (int step = 0; step < 20000; ++step) {
    Entry& slot = slots[below(slots.size())];
    const std::uintptr_t start = 1000 * (static_cast<std::uintptr_t>(&slot - slots.data()) + 1);
    switch (below(4)) {
      case 0:
        if (slot.bytes != 0) break;
        slot.base = start + below(500);
        slot.bytes = 1 + below(500);
        registry.insert("test", at(slot.base), slot.bytes, slot);
        break;
      case 1:
        if (slot.bytes == 0) break;
        REQUIRE(registry.erase(at(slot.base)));
        slot.bytes = 0;
        break;
      default: {
        const std::uintptr_t first = start + below(1000);
        const std::size_t bytes = below(300);
        const bool within = bytes != 0 && first >= slot.base && first < slot.base + slot.bytes &&
                            first + bytes <= slot.base + slot.bytes;
        const auto hit = registry.find(at(first), bytes);
        REQUIRE(hit.entry == (within ? &slot : nullptr));
        if (within) REQUIRE(hit.offset_bytes == first - slot.base);
      }
    }
  }
}

}  // namespace
