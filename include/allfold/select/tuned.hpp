// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <allfold/base/config.hpp>
#include <allfold/base/error.hpp>
#include <allfold/policy/algorithm.hpp>
#include <allfold/policy/selector.hpp>
#include <allfold/select/default_table.hpp>
#include <allfold/select/tuning_table.hpp>

namespace allfold {

namespace detail {

/// The rows of a table that hold for one world size and kind of memory.
struct TuningRange {
  std::uint32_t first = 0;
  std::uint32_t count = 0;
};

/// Those of the nearest world size that has any, the larger of two; empty if the kind of memory has none at all.
constexpr TuningRange nearest_rows(std::span<const TuningRow> rows, int world_size, bool symmetric) noexcept {
  TuningRange range;
  int nearest = 0;
  for (std::uint32_t i = 0; i < rows.size(); ++i) {
    const TuningRow& row = rows[i];
    if (row.symmetric != symmetric) continue;
    const int distance = row.world_size < world_size ? world_size - row.world_size : row.world_size - world_size;
    if (range.count > 0 && row.world_size == rows[range.first].world_size) {
      ++range.count;
    } else if (range.count == 0 || distance <= nearest) {
      range = {i, 1};
      nearest = distance;
    }
  }
  return range;
}

/// nearest_rows of every world size of one window: a call of a collective has no time to search.
struct TuningIndex {
  TuningRange ranges[2][max_window_ranks + 1];

  constexpr explicit TuningIndex(std::span<const TuningRow> rows) noexcept {
    for (int world_size = 0; world_size <= max_window_ranks; ++world_size) {
      ranges[0][world_size] = nearest_rows(rows, world_size, false);
      ranges[1][world_size] = nearest_rows(rows, world_size, true);
    }
  }
};

/// [whether operands lie in GPU memory]
inline constexpr TuningIndex default_tuning_index[2] = {TuningIndex{default_tuning_table(false)},
                                                        TuningIndex{default_tuning_table(true)}};

}  // namespace detail

/// Chooses by a table of measured crossovers: the built-in one, or what a tuning run wrote. A world size without
/// rows takes those of the nearest, the larger of two. Where a row's algorithm cannot run, the next larger row's
/// that can is taken, else `none`. On GPUs, calls that are not aligned go by the rows of private memory, whose
/// algorithms ask less of them; so does what is not of whole vectors where its row names packets. The table must be the
/// same on every rank.
class TunedSelector {
 public:
  using policy_category = selector_tag;
  static constexpr AlgorithmSet candidates = AlgorithmSet::all();

  /// The built-in table.
  TunedSelector() noexcept = default;
  // A move copies, so that what was moved from still has the rows that its index speaks of.
  TunedSelector(const TunedSelector&) = default;
  TunedSelector& operator=(const TunedSelector&) = default;

  /// These rows.
  /// @throws UsageError unless they are in order: ascending world size, symmetric before private, ascending bytes.
  ALLFOLD_COLD explicit TunedSelector(std::vector<TuningRow> rows) : rows_(std::move(rows)), index_(rows_) {
    check_tuning_rows(rows_);
  }

  /// The table in a file that a tuning run wrote.
  /// @throws SystemError if the file cannot be read, UsageError with a line number if it is no whole table.
  ALLFOLD_COLD static TunedSelector from_file(const std::string& path) { return from_text(read_file(path), path); }

  /// The table in a text, called `source` in messages.
  /// @throws UsageError with a line number if it is no whole table.
  ALLFOLD_COLD static TunedSelector from_text(std::string_view text, std::string_view source) {
    return TunedSelector(parse_tuning_table(text, source));
  }

  /// The table as from_text reads it; of the built-in one, the rows of CPU ranks. Each line of `comment` becomes one of
  /// its comments.
  ALLFOLD_COLD std::string to_text(std::string_view comment = {}) const { return tuning_table_text(rows(), comment); }

  /// `device`: those of the built-in table for operands in GPU memory.
  std::span<const TuningRow> rows(bool device = false) const noexcept {
    return rows_.empty() ? default_tuning_table(device) : std::span<const TuningRow>(rows_);
  }

  Algorithm select(const SelectionQuery& query) const noexcept {
    if (!query.symmetric || !query.device) return look_up(query, query.symmetric);
    if (!query.aligned) return look_up(query, false);
    const Algorithm choice = look_up(query, true);
    return sends_packets(choice) && !query.vectors ? look_up(query, false) : choice;
  }

  /// Whether they choose alike. The built-in table has rows for GPUs besides, so that no other is the same.
  friend bool operator==(const TunedSelector& a, const TunedSelector& b) noexcept {
    if (a.rows_.empty() != b.rows_.empty()) return false;
    const std::span<const TuningRow> left = a.rows();
    const std::span<const TuningRow> right = b.rows();
    if (left.size() != right.size()) return false;
    for (std::size_t i = 0; i < left.size(); ++i) {
      if (!(left[i] == right[i])) return false;
    }
    return true;
  }

 private:
  Algorithm look_up(const SelectionQuery& query, bool symmetric) const noexcept {
    const AlgorithmSet usable = query.possible & suited(query.topology);
    const bool in_window = query.world_size >= 0 && query.world_size <= max_window_ranks;
    const std::span<const TuningRow> all = rows(query.device);
    const detail::TuningIndex& index = rows_.empty() ? detail::default_tuning_index[query.device ? 1 : 0] : index_;
    const detail::TuningRange range = in_window ? index.ranges[symmetric ? 1 : 0][query.world_size]
                                                : detail::nearest_rows(all, query.world_size, symmetric);
    for (const TuningRow& row : all.subspan(range.first, range.count)) {
      if (row.up_to_bytes < query.bytes) continue;
      if (row.algorithm == Algorithm::none || usable.contains(row.algorithm)) return row.algorithm;
    }
    return Algorithm::none;
  }

  /// hybrid_cube_mesh is for that topology, the others need a link between each pair of ranks.
  static AlgorithmSet suited(TopologyKind topology) noexcept {
    constexpr AlgorithmSet mesh = AlgorithmSet::of(Algorithm::hybrid_cube_mesh);
    if (topology == TopologyKind::hybrid_cube_mesh) return mesh;
    if (topology == TopologyKind::unknown) return {};
    return {static_cast<std::uint8_t>(AlgorithmSet::all().bits & ~mesh.bits)};
  }

  struct File {
    std::FILE* handle;
    ~File() {
      if (handle != nullptr) std::fclose(handle);
    }
  };

  ALLFOLD_COLD static std::string read_file(const std::string& path) {
    constexpr std::size_t most_bytes = std::size_t{1} << 20;
    const File file{std::fopen(path.c_str(), "rb")};
    if (file.handle == nullptr) throw SystemError("tuning table", errno, {"cannot open ", path});
    std::string text;
    char chunk[4096];
    for (;;) {
      const std::size_t got = std::fread(chunk, 1, sizeof chunk, file.handle);
      if (got == 0) break;
      text.append(chunk, got);
      if (text.size() > most_bytes) {
        throw UsageError("tuning table", {path, " is larger than ", most_bytes, " bytes; expected a tuning table"});
      }
    }
    if (std::ferror(file.handle) != 0) throw SystemError("tuning table", errno, {"cannot read ", path});
    return text;
  }

  std::vector<TuningRow> rows_;                                  // empty: the built-in table
  detail::TuningIndex index_ = detail::default_tuning_index[0];  // of rows_
};
static_assert(selector_policy<TunedSelector>);

}  // namespace allfold
