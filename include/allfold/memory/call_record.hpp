// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include <allfold/base/concat.hpp>
#include <allfold/base/config.hpp>
#include <allfold/base/hash.hpp>
#include <allfold/memory/window.hpp>
#include <allfold/policy/algorithm.hpp>
#include <allfold/policy/operation.hpp>

namespace allfold {

/// Where a rank's argument lies, as far as ranks must agree on it.
struct Placement {
  std::uint64_t window = 0;  ///< serial of the symmetric allocation; 0: private memory
  std::uint64_t offset = 0;  ///< bytes into it
};

/// What a rank calls: all that ranks must agree on. Plain bytes; peers read it to say what differs.
struct CallRecord {
  Operation operation = Operation::barrier;
  Algorithm algorithm = Algorithm::none;
  RankMask group = 0;
  std::uint64_t type = 0;       ///< type_identity
  std::uint64_t reduction = 0;  ///< operator_identity
  std::uint64_t count = 0;      ///< of elements; of a signal: the slot
  Placement in{};
  Placement out{};
  char type_name[24] = {};
  char reduction_name[24] = {};

  /// 32 bits that two records share only by a chance of 2^-32, unless they are the same call.
  std::uint32_t tag() const noexcept {
    std::uint64_t h = static_cast<std::uint64_t>(operation) | static_cast<std::uint64_t>(algorithm) << 8 |
                      static_cast<std::uint64_t>(group) << 16;
    for (const std::uint64_t part : {count, type, reduction}) h = hash_combine(h, part);
    if ((in.window | out.window) != 0) {
      for (const std::uint64_t part : {in.window, in.offset, out.window, out.offset}) h = hash_combine(h, part + 1);
    }
    return static_cast<std::uint32_t>(h >> 32);
  }

  /// `all_reduce of 1024 float, sum, private memory, two_shot`.
  ALLFOLD_COLD std::string text() const {
    if (operation == Operation::barrier) return "barrier";
    if (operation == Operation::signal) {
      return concat({"a signal in slot ", static_cast<int>(count), " of symmetric allocation ", in.window});
    }
    if (operation == Operation::group_barrier) return concat({"barrier of ranks {", ranks_text(), "}"});
    return concat({name(operation), " of ", count, " ", type_name, ", ", reduction_name, ", ", memory_text(), ", ",
                   name(algorithm)});
  }

 private:
  ALLFOLD_COLD std::string ranks_text() const {
    std::string out_text;
    for (int r = 0; r < 32; ++r) {
      if (has_rank(group, r)) out_text += concat({out_text.empty() ? "" : ", ", r});
    }
    return out_text;
  }

  ALLFOLD_COLD std::string memory_text() const {
    if (in.window == 0 && out.window == 0) return "private memory";
    const auto place = [](const Placement& p) {
      return p.window == 0 ? std::string("private memory")
                           : concat({"symmetric allocation ", p.window, " + ", p.offset, " B"});
    };
    return concat({"from ", place(in), " to ", place(out)});
  }
};

/// Copies a name into a record's field; a longer one is cut.
template <std::size_t Size>
constexpr void copy_name(char (&field)[Size], std::string_view text) noexcept {
  for (std::size_t i = 0; i < Size; ++i) field[i] = i < text.size() && i + 1 < Size ? text[i] : '\0';
}

}  // namespace allfold
