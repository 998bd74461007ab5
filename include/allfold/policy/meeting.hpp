// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/function_ref.hpp>

namespace allfold {

/// What a transport sees of the store while all ranks rendezvous, or allocate, together: a way to exchange bytes.
/// Every rank makes the same exchanges in the same order. If one rank fails, the others' exchanges throw its reason.
class Meeting {
 public:
  /// Gives every rank's bytes for `mine`, by rank. `step` names the exchange in messages.
  using Gather = FunctionRef<std::vector<std::string>(std::string_view step, std::string_view mine)>;

  Meeting(std::string_view operation, int rank, int world_size, Deadline deadline, Gather gather)
      : operation_(operation), gather_(gather), deadline_(deadline), rank_(rank), world_size_(world_size) {}

  int rank() const noexcept { return rank_; }
  int world_size() const noexcept { return world_size_; }
  Deadline deadline() const noexcept { return deadline_; }
  Where where(SourceLocation location = SourceLocation::current()) const {
    return Where(operation_, rank_, world_size_, location);
  }

  /// One plain value of each rank: [world_size].
  template <class T>
    requires std::is_trivially_copyable_v<T>
  std::vector<T> all_gather(std::string_view step, const T& mine) {
    std::vector<T> values(static_cast<std::size_t>(world_size_));
    gather_plain(step, &mine, values.data(), sizeof(T));
    return values;
  }

  /// Bytes of each rank, however many: [world_size].
  std::vector<std::string> all_gather_bytes(std::string_view step, std::string_view mine) {
    return gather_(step, mine);
  }

  /// Returns when every rank is here.
  void barrier(std::string_view step) { gather_(step, {}); }

 private:
  ALLFOLD_COLD void gather_plain(std::string_view step, const void* mine, void* all, std::size_t bytes) {
    const std::vector<std::string> texts = gather_(step, {static_cast<const char*>(mine), bytes});
    char* to = static_cast<char*>(all);
    for (std::size_t r = 0; r < texts.size(); ++r, to += bytes) {
      if (texts[r].size() != bytes) {
        throw MismatchError(where(), static_cast<int>(r),
                            {"rank ", r, " sent ", texts[r].size(), " bytes for \"", step, "\"; expected ", bytes,
                             "; all ranks must run the same build of the program"});
      }
      std::memcpy(to, texts[r].data(), bytes);
    }
  }

  std::string_view operation_;
  Gather gather_;
  Deadline deadline_;
  int rank_;
  int world_size_;
};

}  // namespace allfold
