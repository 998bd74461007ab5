// SPDX-License-Identifier: Apache-2.0
#include <allfold/store/hash.hpp>

#include <string>

#include <doctest/doctest.h>

#include <support/store_conformance.hpp>

using allfold::HashStore;
using namespace allfold_test;

TEST_CASE("HashStore is a store") {
  HashStore hub;
  check_store_conformance([&] { return hub; });
}

TEST_CASE("HashStore: several threads share one object") {
  HashStore hub;
  check_shared_object(hub);
}

TEST_CASE("HashStore: copies share their keys, other stores do not") {
  HashStore hub;
  HashStore copy = hub;
  HashStore other;
  hub.set("key", "value");
  CHECK(copy.get("key") == "value");
  CHECK_FALSE(other.check(Strings{"key"}));
  other = copy;
  CHECK(other.check(Strings{"key"}));
}

TEST_CASE("HashStore: a wait ends only while all its keys exist") {
  HashStore hub;
  hub.set("first", "");
  on_threads(2, [&](int i) {
    if (i == 0) {
      hub.wait(Strings{"first", "second"}, soon());
      if (!hub.check(Strings{"first", "second"})) throw std::runtime_error("first is gone");
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      hub.erase("first");
      hub.set("second", "");
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      hub.set("first", "");
    }
  });
}
