// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <allfold/base/concat.hpp>
#include <allfold/base/config.hpp>
#include <allfold/base/hash.hpp>
#include <allfold/memory/call_record.hpp>

namespace allfold {

/// Where the buffers of a call lie, on transports that take several kinds; `none`: it has no buffers, or there is one
/// kind.
enum class MemoryKind : std::uint8_t { none, host, device };

/// A buffer, and what the call calls it.
struct NamedMemory {
  std::string_view name;
  const void* data;
};

/// What a rank calls over messages, as far as ranks must agree on it. The views' texts live for ever.
struct MessageRecord {
  Operation operation = Operation::barrier;
  std::string_view algorithm{};  ///< empty: the operation has one
  std::uint64_t type = 0;        ///< type_identity
  std::uint64_t reduction = 0;   ///< operator_identity
  std::uint64_t count = 0;       ///< elements of a rank, where they are as many on all; else of all ranks
  std::uint64_t split_hash = 0;  ///< of the counts of all ranks, where every rank gives all of them
  int root = -1;
  std::string_view type_name{};
  std::string_view reduction_name{};
  MemoryKind memory = MemoryKind::none;

  /// Of all but the kind of memory, of which a rank without elements has none.
  std::uint64_t hash() const noexcept {
    // Each call has one made, so it is a short one: the parts are hashes, or differ in their low bits.
    constexpr std::uint64_t odd = 0x9fb21c651e98df25ULL;
    std::uint64_t h = static_cast<std::uint64_t>(operation);
    for (const std::uint64_t part :
         {algorithm_word(), type, reduction, count, split_hash, static_cast<std::uint64_t>(root + 1)}) {
      h = (h + part) * odd;
    }
    return hash_mix(h);
  }

  /// What messages bear of it: ranks that exchange any have memory of one kind.
  std::uint64_t message_hash() const noexcept { return with_memory(hash()); }
  std::uint64_t message_type() const noexcept { return with_memory(type); }

  /// `all_reduce of 1024 float, sum, direct`.
  ALLFOLD_COLD std::string text() const {
    std::string all(name(operation));
    if (!type_name.empty()) all += concat({" of ", count, " ", type_name});
    if (!reduction_name.empty()) all += concat({", ", reduction_name});
    if (root >= 0) all += concat({", root ", root});
    if (split_hash != 0) all += ", split unevenly";
    if (!algorithm.empty()) all += concat({", ", algorithm});
    if (memory == MemoryKind::device) all += ", memory of a GPU";
    if (memory == MemoryKind::host) all += ", memory of the host";
    return all;
  }

 private:
  /// Algorithms of one operation differ in the length of their names, or in the first letters.
  std::uint64_t algorithm_word() const noexcept {
    std::uint64_t word = algorithm.size();
    for (const char c : algorithm.substr(0, 4)) word = word << 8 | static_cast<unsigned char>(c);
    return word;
  }
  std::uint64_t with_memory(std::uint64_t h) const noexcept {
    return memory == MemoryKind::none ? h : hash_combine(h, static_cast<std::uint64_t>(memory));
  }
};

/// What MessageRecord::split_hash holds of these counts; never 0.
inline std::uint64_t hash_splits(std::span<const std::size_t> counts) noexcept {
  std::uint64_t h = counts.size();
  for (const std::size_t count : counts) h = hash_combine(h, count);
  return h | 1;
}

}  // namespace allfold
