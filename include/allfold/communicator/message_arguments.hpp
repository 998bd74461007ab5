// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <allfold/algo/message/parts.hpp>
#include <allfold/base/error.hpp>
#include <allfold/launch/message_operation.hpp>
#include <allfold/memory/message_record.hpp>
#include <allfold/op/element.hpp>
#include <allfold/op/reduction.hpp>

namespace allfold {

/// Memory that a call reads or writes.
struct Extent {
  const void* data = nullptr;
  std::size_t count = 0;
  std::size_t bytes = 0;

  template <class T>
  static Extent of(const T* data, std::size_t count) noexcept {
    return {data, count, count * sizeof(T)};
  }
};

/// Throws UsageError unless both can be the arguments of one call: apart, or `in_place` as the operation allows.
inline void check_extents(const Where& where, const Extent& in, const Extent& out, bool in_place = false) {
  for (const Extent* each : {&in, &out}) {
    if (each->count == 0 || each->data != nullptr) continue;
    throw UsageError(where, {"the ", each == &in ? "input" : "output", " is null; expected ", each->count,
                             " elements; pass memory that holds them"});
  }
  const auto a = reinterpret_cast<std::uintptr_t>(in.data);
  const auto b = reinterpret_cast<std::uintptr_t>(out.data);
  if (in_place || in.bytes == 0 || out.bytes == 0 || a >= b + out.bytes || b >= a + in.bytes) return;
  throw UsageError(where, {"input and output overlap; expected disjoint buffers, or in place: the same buffer, or this "
                           "rank's own part of the larger one; try a copy of the input"});
}

/// Throws UsageError if two of the buffers share memory.
template <class T>
void check_disjoint(const Where& where, std::span<const std::span<T>> buffers) {
  std::vector<std::span<T>> sorted(buffers.begin(), buffers.end());
  std::erase_if(sorted, [](std::span<T> each) { return each.empty(); });
  std::sort(sorted.begin(), sorted.end(), [](std::span<T> a, std::span<T> b) { return a.data() < b.data(); });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].data() >= sorted[i - 1].data() + sorted[i - 1].size()) continue;
    throw UsageError(where, {"two of the buffers overlap; expected disjoint ones; leave out what is there twice"});
  }
}

/// Throws UsageError unless `got` elements are what the call needs.
inline void check_count(const Where& where, std::string_view what, std::size_t got, std::size_t want,
                        std::string_view why) {
  if (got == want) return;
  throw UsageError(
      where, {"the ", what, " has ", got, " elements; expected ", want, ", ", why, "; pass a buffer of that size"});
}

inline void check_root(const Where& where, int root) {
  if (root >= 0 && root < where.world_size()) return;
  throw UsageError(where, {"CallOptions::root is ", root, "; expected a rank, 0 to ", where.world_size() - 1});
}

inline void check_peer(const Where& where, std::string_view what, int peer) {
  if (peer >= 0 && peer < where.world_size()) return;
  throw UsageError(where, {"the rank to ", what, " is ", peer, "; expected 0 to ", where.world_size() - 1});
}

inline void check_tag(const Where& where, int tag) {
  if (tag >= 0) return;
  throw UsageError(where, {"CallOptions::tag is ", tag, "; expected 0 to ", std::numeric_limits<int>::max()});
}

/// How many elements each rank has of a buffer: a copy of the caller's list, and where each part begins.
class Splits {
 public:
  Splits() = default;
  /// @throws UsageError unless there is a count for each rank, and they add up to `total`
  Splits(const Where& where, std::string_view what, std::span<const std::size_t> counts, std::size_t total)
      : counts_(counts.begin(), counts.end()), begins_(counts.size()) {
    if (static_cast<int>(counts.size()) != where.world_size()) {
      throw UsageError(where, {"there are ", counts.size(), " counts for the ", what, "; expected ", where.world_size(),
                               ", one for each rank"});
    }
    std::size_t sum = 0;
    for (std::size_t r = 0; r < counts_.size(); ++r) {
      begins_[r] = sum;
      if (!__builtin_add_overflow(sum, counts_[r], &sum)) continue;
      throw UsageError(where, {"the counts for the ", what, " add up to more than memory holds; correct them"});
    }
    if (sum == total) return;
    throw UsageError(where, {"the counts for the ", what, " add up to ", sum, ", but it has ", total,
                             " elements; expected as many; correct the counts or the buffer"});
  }

  /// As a rank sees it that knows of its own part alone.
  static Splits own(const Where& where, std::size_t count) {
    std::vector<std::size_t> counts(static_cast<std::size_t>(where.world_size()));
    counts[static_cast<std::size_t>(where.rank())] = count;
    return Splits(where, "part", counts, count);
  }

  std::size_t of(int rank) const noexcept { return counts_[static_cast<std::size_t>(rank)]; }
  /// In elements; refers to this object.
  Parts parts() const noexcept { return Parts::listed(counts_.data(), begins_.data()); }

 private:
  std::vector<std::size_t> counts_;
  std::vector<std::size_t> begins_;
};

/// What a call moves, for tracers. The spans are read before the call returns.
struct Traffic {
  std::size_t in_bytes = 0;
  std::size_t out_bytes = 0;
  std::span<const std::size_t> in_splits{};   ///< elements for each rank
  std::span<const std::size_t> out_splits{};  ///< elements of each rank
  OperationResult result{};
  const void* in = nullptr;
  std::span<const Extent> pieces{};  ///< buffers of a call that has any number of them
};

/// The memory that a call reads and writes.
inline std::vector<NamedMemory> named_memory(const Traffic& traffic) {
  std::vector<NamedMemory> all;
  if (traffic.in != nullptr && traffic.in_bytes != 0) all.push_back({"input", traffic.in});
  if (traffic.result.data != nullptr && traffic.out_bytes != 0) all.push_back({"output", traffic.result.data});
  for (const Extent& piece : traffic.pieces) {
    if (piece.bytes != 0) all.push_back({all.empty() ? "first buffer" : "other buffer", piece.data});
  }
  return all;
}

/// The buffers of a call, as pointers.
template <class T>
struct MessageArguments {
  const T* in = nullptr;
  std::size_t count = 0;  ///< of the input
  T* out = nullptr;
  std::size_t out_count = 0;
  std::span<const std::size_t> in_splits{};
  std::span<const std::size_t> out_splits{};
  std::span<const Extent> pieces{};
  bool has_type = false;

  MessageArguments() = default;
  MessageArguments(const T* from, std::size_t from_count, T* to, std::size_t to_count) noexcept
      : in(from), count(from_count), out(to), out_count(to_count), has_type(true) {}
  template <class In, class Out>
  MessageArguments(const In& from, Out& to) noexcept
      : MessageArguments(std::data(from), std::size(from), std::data(to), std::size(to)) {}

  Extent input() const noexcept { return Extent::of(in, count); }
  Extent output() const noexcept { return Extent::of(out, out_count); }

  MessageArguments with_splits(std::span<const std::size_t> of_in, std::span<const std::size_t> of_out) const noexcept {
    MessageArguments a = *this;
    a.in_splits = of_in;
    a.out_splits = of_out;
    return a;
  }
  MessageArguments with_pieces(std::span<const Extent> of_call) const noexcept {
    MessageArguments a = *this;
    a.pieces = of_call;
    return a;
  }
  MessageArguments without_input() const noexcept { return MessageArguments(nullptr, 0, out, out_count); }
  MessageArguments without_output() const noexcept { return MessageArguments(in, count, nullptr, 0); }

  Traffic traffic() const noexcept {
    return {count * sizeof(T), out_count * sizeof(T), in_splits, out_splits, result(), in, pieces};
  }
  OperationResult result() const noexcept {
    if (!has_type || out == nullptr) return {};
    return {out, out_count, type_identity<T>()};
  }
};

}  // namespace allfold
