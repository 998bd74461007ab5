// SPDX-License-Identifier: Apache-2.0
#include <allfold/store/prefix.hpp>

#include <string>
#include <type_traits>

#include <doctest/doctest.h>

#include <allfold/store/hash.hpp>

#include <support/store_conformance.hpp>

using allfold::HashStore;
using allfold::PrefixStore;
using namespace allfold_test;

static_assert(allfold::store_policy<PrefixStore<HashStore>>);
static_assert(allfold::store_policy<PrefixStore<HashStore&>>);
static_assert(allfold::store_policy<PrefixStore<PrefixStore<HashStore&>>>);

TEST_CASE("PrefixStore is a store") {
  HashStore hub;
  check_store_conformance([&] { return PrefixStore(hub, "job"); });
  check_store_conformance([copy = HashStore()] { return PrefixStore<HashStore>(copy, "job"); });
}

TEST_CASE("PrefixStore puts its prefix before every key") {
  HashStore hub;
  PrefixStore a(hub, "a");
  PrefixStore b(hub, "b");
  a.set("key", "of a");
  b.set("key", "of b");
  CHECK(a.get("key") == "of a");
  CHECK(hub.get("a/key") == "of a");
  CHECK(hub.get("b/key") == "of b");
  CHECK(a.add("n", 3) == 3);
  CHECK(b.add("n", 4) == 4);
  CHECK(a.compare_set("key", "of a", "new") == "new");
  CHECK(a.erase("key"));
  CHECK(b.check(Strings{"key", "n"}));
  CHECK_FALSE(a.check(Strings{"key", "n"}));
  PrefixStore nested(a, "inner");
  nested.set("key", "deep");
  CHECK(hub.get("a/inner/key") == "deep");
  CHECK(contains(message_of<allfold::TimeoutError>([&] { a.wait(Strings{"late"}, within_ms(5)); }), "a/late"));
}

TEST_CASE("PrefixStore refers to an lvalue and owns an rvalue") {
  HashStore hub;
  PrefixStore refers(hub, "p");
  static_assert(std::is_same_v<decltype(refers), PrefixStore<HashStore&>>);
  CHECK(&refers.underlying() == &hub);
  PrefixStore owns(HashStore(), "p");
  static_assert(std::is_same_v<decltype(owns), PrefixStore<HashStore>>);
  owns.set("key", "");
  CHECK(owns.underlying().check(Strings{"p/key"}));
}
