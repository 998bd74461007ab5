// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include <allfold/base/config.hpp>
#include <allfold/base/error.hpp>

namespace allfold {

/// `signal` is no collective: a kernel of the caller's waits for one, or until one was taken.
enum class Operation : std::uint8_t {
  all_reduce,
  barrier,
  group_barrier,
  signal,
  all_reduce_coalesced,
  reduce,
  broadcast,
  all_gather,
  all_gather_v,
  reduce_scatter,
  reduce_scatter_v,
  all_to_all,
  all_to_all_v,
  gather,
  gather_v,
  scatter,
  scatter_v,
  send,
  receive,
};
inline constexpr int operation_count = static_cast<int>(Operation::receive) + 1;

constexpr std::string_view name(Operation operation) noexcept {
  switch (operation) {
    case Operation::all_reduce: return "all_reduce";
    case Operation::barrier: return "barrier";
    case Operation::group_barrier: return "barrier of a group";
    case Operation::signal: return "signal";
    case Operation::all_reduce_coalesced: return "all_reduce_coalesced";
    case Operation::reduce: return "reduce";
    case Operation::broadcast: return "broadcast";
    case Operation::all_gather: return "all_gather";
    case Operation::all_gather_v: return "all_gather_v";
    case Operation::reduce_scatter: return "reduce_scatter";
    case Operation::reduce_scatter_v: return "reduce_scatter_v";
    case Operation::all_to_all: return "all_to_all";
    case Operation::all_to_all_v: return "all_to_all_v";
    case Operation::gather: return "gather";
    case Operation::gather_v: return "gather_v";
    case Operation::scatter: return "scatter";
    case Operation::scatter_v: return "scatter_v";
    case Operation::send: return "send";
    case Operation::receive: return "receive";
  }
  return "?";
}

/// Some of the operations.
class OperationSet {
 public:
  constexpr OperationSet() noexcept = default;
  static constexpr OperationSet all() noexcept { return OperationSet(~std::uint32_t{0}); }
  static constexpr OperationSet of(Operation operation) noexcept { return OperationSet(bit(operation)); }

  /// `all`, `none`, or names with commas between them. `what`: whose text it is, for the error.
  /// @throws UsageError for any other text
  ALLFOLD_COLD static OperationSet parse(std::string_view what, std::string_view text) {
    if (text == "all") return all();
    OperationSet set;
    if (text == "none") return set;
    for (std::size_t begin = 0; begin <= text.size();) {
      const std::size_t end = text.find(',', begin) == text.npos ? text.size() : text.find(',', begin);
      set = set | named(what, text, text.substr(begin, end - begin));
      begin = end + 1;
    }
    return set;
  }

  constexpr bool contains(Operation operation) const noexcept { return (bits_ & bit(operation)) != 0; }
  friend constexpr OperationSet operator|(OperationSet a, OperationSet b) noexcept {
    return OperationSet(a.bits_ | b.bits_);
  }
  friend constexpr bool operator==(OperationSet, OperationSet) noexcept = default;

 private:
  static_assert(operation_count <= 32);

  constexpr explicit OperationSet(std::uint32_t bits) noexcept : bits_(bits) {}
  static constexpr std::uint32_t bit(Operation operation) noexcept {
    return std::uint32_t{1} << static_cast<unsigned>(operation);
  }

  static OperationSet named(std::string_view what, std::string_view text, std::string_view word) {
    for (int i = 0; i < operation_count; ++i) {
      const auto operation = static_cast<Operation>(i);
      if (word == name(operation)) return of(operation);
    }
    throw UsageError("environment", {what, " is \"", text, "\"; expected all, none, or names of operations such as ",
                                     "all_reduce,broadcast; \"", word, "\" is none"});
  }

  std::uint32_t bits_ = 0;
};

}  // namespace allfold
