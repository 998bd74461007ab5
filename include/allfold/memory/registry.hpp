// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <allfold/base/error.hpp>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace allfold {

namespace detail {

/// Disjoint address ranges in ascending order. Shared by every RangeRegistry<Entry>.
class RangeTable {
 public:
  struct Range {
    std::uintptr_t base;
    std::size_t bytes;
    void* entry;

    /// One unsigned comparison refuses what lies below the range as well.
    bool holds(std::uintptr_t first, std::size_t count) const noexcept {
      const std::size_t offset = first - base;
      return count != 0 && offset < bytes && count <= bytes - offset;
    }
  };

  ALLFOLD_COLD void insert(const Where& where, const void* base, std::size_t bytes, void* entry) {
    const auto first = reinterpret_cast<std::uintptr_t>(base);
    if (base == nullptr || bytes == 0 || bytes - 1 > UINTPTR_MAX - first) {
      throw UsageError(where, {"a range of ", bytes, " bytes at address ", first, " is no memory"});
    }
    const auto next = std::upper_bound(ranges_.begin(), ranges_.end(), first, before);
    const bool touches_next = next != ranges_.end() && next->base - first < bytes;
    if (touches_next || (next != ranges_.begin() && (next - 1)->holds(first, 1))) {
      throw UsageError(where, {"a range of ", bytes, " bytes at address ", first,
                               " overlaps one that is registered; expected memory that is registered once"});
    }
    ranges_.insert(next, {first, bytes, entry});
  }

  ALLFOLD_COLD bool erase(const void* base) noexcept {
    const auto first = reinterpret_cast<std::uintptr_t>(base);
    const auto next = std::upper_bound(ranges_.begin(), ranges_.end(), first, before);
    if (next == ranges_.begin() || (next - 1)->base != first) return false;
    ranges_.erase(next - 1);
    return true;
  }

  const Range* find(const void* pointer, std::size_t bytes) const noexcept {
    const auto first = reinterpret_cast<std::uintptr_t>(pointer);
    if (last_ < ranges_.size() && ranges_[last_].holds(first, bytes)) return &ranges_[last_];
    const auto next = std::upper_bound(ranges_.begin(), ranges_.end(), first, before);
    if (next == ranges_.begin() || !(next - 1)->holds(first, bytes)) return nullptr;
    last_ = static_cast<std::size_t>(next - 1 - ranges_.begin());
    return &ranges_[last_];
  }

  std::size_t size() const noexcept { return ranges_.size(); }

 private:
  static bool before(std::uintptr_t address, const Range& range) noexcept { return address < range.base; }

  std::vector<Range> ranges_;
  mutable std::size_t last_ = 0;  ///< where to look first: calls come again with the same buffer
};

}  // namespace detail

/// Finds the symmetric allocation that an address range lies in. Keeps pointers to entries that the caller owns. One
/// thread at a time, lookups too: they remember the last hit.
template <class Entry>
class RangeRegistry {
 public:
  struct Hit {
    Entry* entry = nullptr;
    std::size_t offset_bytes = 0;  ///< from the base of the entry's range

    explicit operator bool() const noexcept { return entry != nullptr; }
  };

  /// @throws UsageError if the range is empty or overlaps a registered one.
  void insert(const Where& where, const void* base, std::size_t bytes, Entry& entry) {
    table_.insert(where, base, bytes, &entry);
  }

  /// Forgets the range that starts at `base`; says whether there was one.
  bool erase(const void* base) noexcept { return table_.erase(base); }

  /// The entry whose range holds all `bytes` at `pointer`; no entry if none does, or if there are no bytes.
  Hit find(const void* pointer, std::size_t bytes) const noexcept {
    const detail::RangeTable::Range* const range = table_.find(pointer, bytes);
    if (range == nullptr) return {};
    return {static_cast<Entry*>(range->entry), reinterpret_cast<std::uintptr_t>(pointer) - range->base};
  }

  std::size_t size() const noexcept { return table_.size(); }

 private:
  detail::RangeTable table_;
};

}  // namespace allfold
