// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <allfold/store/common.hpp>
#include <allfold/store/store_ref.hpp>

namespace allfold {
namespace detail {

ALLFOLD_COLD inline std::string gather_key(std::string_view key, int rank) { return concat({key, "/", rank}); }

/// After a wait for all ranks' keys ran out: says which rank is to blame.
[[noreturn]] ALLFOLD_COLD inline void throw_gather_late(StoreRef store, std::string_view key, const Where& where,
                                                        int world_size, Duration timeout) {
  const Deadline grace = Deadline::after(std::chrono::seconds(1));
  int missing = -1;
  for (int r = 0; r < world_size && missing < 0; ++r) {
    const std::string one[] = {gather_key(key, r)};
    try {
      if (!store.check(one, grace)) missing = r;
    } catch (const TimeoutError&) {
      break;  // the store itself is slow: nobody to name
    }
  }
  if (missing < 0) {
    throw TimeoutError(where, -1,
                       {"the store was slow to answer for key ", quoted_key(key), "; expected all ranks within ",
                        whole_ms(timeout), " ms; try a longer deadline"});
  }
  throw TimeoutError(where, missing,
                     {"rank ", missing, " did not arrive at key ", quoted_key(key), "; expected it within ",
                      whole_ms(timeout), " ms; try a longer deadline, or see why that rank is late"});
}

/// store_all_gather on plain bytes: `out` is [world_size * bytes].
ALLFOLD_COLD inline void store_all_gather_bytes(StoreRef store, std::string_view key, int rank, int world_size,
                                                const void* value, std::size_t bytes, void* out, Deadline deadline) {
  const Where where("store_all_gather", rank, world_size);
  if (rank < 0 || rank >= world_size) {
    throw UsageError(where, {"the rank is not one of the world; expected 0 to ", world_size - 1, ", got ", rank});
  }
  const Duration timeout = deadline.remaining();
  store.set(gather_key(key, rank), std::string_view(static_cast<const char*>(value), bytes), deadline);
  std::vector<std::string> keys;
  keys.reserve(static_cast<std::size_t>(world_size));
  for (int r = 0; r < world_size; ++r) keys.push_back(gather_key(key, r));
  try {
    store.wait(keys, deadline);
  } catch (const TimeoutError&) {
    throw_gather_late(store, key, where, world_size, timeout);
  }
  for (int r = 0; r < world_size; ++r) {
    const std::string theirs = store.get(keys[static_cast<std::size_t>(r)], deadline);
    if (theirs.size() != bytes) {
      throw MismatchError(where, r,
                          {"rank ", r, " gave a value of another size at key ", quoted_key(key), "; expected ", bytes,
                           " bytes, got ", theirs.size(), "; try the same build on all ranks"});
    }
    if (bytes != 0) std::memcpy(static_cast<char*>(out) + static_cast<std::size_t>(r) * bytes, theirs.data(), bytes);
  }
}

}  // namespace detail

/// Gathers one `value` of each rank through a store.
/// Shape: returns [world_size] values; entry r is rank r's.
/// Collective: every rank, with the same key, world size and T. A key serves once: the values stay in the store
/// as `key/0`, `key/1`, .., until somebody erases them.
/// Sync: returns when all ranks have given their value.
/// @throws TimeoutError that names the first rank that did not arrive; MismatchError if T's size differs.
template <class T, class S>
std::vector<T> store_all_gather(S& store, std::string_view key, int rank, int world_size, const T& value,
                                Deadline deadline = default_store_deadline()) {
  static_assert(std::is_trivially_copyable_v<T>,
                "allfold: store_all_gather moves plain bytes: T must be trivially copyable");
  std::vector<T> out(static_cast<std::size_t>(world_size < 0 ? 0 : world_size));
  detail::store_all_gather_bytes(StoreRef(store), key, rank, world_size, &value, sizeof(T), out.data(), deadline);
  return out;
}

}  // namespace allfold
