// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <set>

#include <doctest/doctest.h>

#include <allfold/memory/message_record.hpp>
#include <allfold/policy/message_algorithm.hpp>

using allfold::MessageRecord;
using allfold::Operation;

namespace {

/// As many bits of the hash as messages bear.
std::uint64_t borne(const MessageRecord& record) { return record.message_hash() & 0xfff; }

template <class Motions>
void check_distinct(Operation operation, const Motions& motions) {
  std::set<std::uint64_t> hashes;
  std::set<std::uint64_t> short_hashes;
  for (const auto motion : motions) {
    const MessageRecord record{.operation = operation, .algorithm = name(motion), .count = 5};
    hashes.insert(record.hash());
    short_hashes.insert(borne(record));
  }
  CHECK(hashes.size() == std::size(motions));
  CHECK(short_hashes.size() == std::size(motions));
}

}  // namespace

TEST_CASE("calls that differ in one part have different hashes") {
  const MessageRecord call{.operation = Operation::reduce, .type = 11, .reduction = 12, .count = 1000, .root = 3};
  std::set<std::uint64_t> hashes{call.hash()};
  const auto with = [&](auto change) {
    MessageRecord other = call;
    change(other);
    hashes.insert(other.hash());
  };
  with([](MessageRecord& r) { r.operation = Operation::broadcast; });
  with([](MessageRecord& r) { r.type = 12; });
  with([](MessageRecord& r) { r.reduction = 11; });
  with([](MessageRecord& r) { r.count = 1001; });
  with([](MessageRecord& r) { r.split_hash = 1; });
  with([](MessageRecord& r) { r.root = 2; });
  with([](MessageRecord& r) { r.algorithm = "direct"; });
  CHECK(hashes.size() == 8);
}

TEST_CASE("algorithms of one operation have different hashes, in as many bits as messages bear too") {
  check_distinct(Operation::all_reduce, allfold::all_reduce_motions);
  check_distinct(Operation::reduce, allfold::reduce_motions);
  check_distinct(Operation::reduce_scatter, allfold::reduce_scatter_motions);
  check_distinct(Operation::broadcast, allfold::broadcast_motions);
  check_distinct(Operation::all_gather, allfold::all_gather_motions);
  check_distinct(Operation::all_to_all, allfold::all_to_all_motions);
}

TEST_CASE("counts next to each other, and roots, seldom share the bits that messages bear") {
  int alike = 0;
  for (std::uint64_t count = 0; count < 4000; ++count) {
    alike += borne({.count = count, .root = 0}) == borne({.count = count + 1, .root = 0}) ? 1 : 0;
    alike += borne({.count = count, .root = 0}) == borne({.count = count, .root = 1}) ? 1 : 0;
  }
  CHECK(alike <= 12);  // 2 are to be expected
}
