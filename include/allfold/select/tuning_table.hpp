// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <allfold/base/error.hpp>
#include <allfold/base/hash.hpp>
#include <allfold/policy/algorithm.hpp>

/// The table that a tuning run writes and TunedSelector goes by, as rows and as text:
///
///   allfold tuning table 1
///   # comments, anywhere between the first line and the last
///   2 symmetric 4096 one_shot_packet
///   2 symmetric unlimited two_shot
///   2 private unlimited two_shot
///   end 3 rows 0123456789abcdef
///
/// The last line counts the rows and holds a checksum of every byte above it.

namespace allfold {

/// The bound of a row that holds for every size.
inline constexpr std::size_t unlimited_bytes = std::numeric_limits<std::size_t>::max();

/// The algorithm of one range of sizes: from above the bound of the row before to `up_to_bytes`, inclusive.
struct TuningRow {
  int world_size = 2;
  bool symmetric = false;  ///< input and output both lie in symmetric memory
  std::size_t up_to_bytes = unlimited_bytes;
  Algorithm algorithm = Algorithm::none;

  friend constexpr bool operator==(const TuningRow&, const TuningRow&) = default;
};

namespace detail {

/// The order of a table's rows: by world size, symmetric memory first, then by size.
constexpr bool tuning_row_before(const TuningRow& a, const TuningRow& b) noexcept {
  if (a.world_size != b.world_size) return a.world_size < b.world_size;
  if (a.symmetric != b.symmetric) return a.symmetric;
  return a.up_to_bytes < b.up_to_bytes;
}

inline constexpr std::string_view tuning_table_title = "allfold tuning table ";
inline constexpr std::string_view tuning_table_version = "1";

/// The last line of a table whose lines above it are `above`.
ALLFOLD_COLD inline std::string tuning_table_end(std::string_view above, std::size_t rows) {
  std::string out = concat({"end ", rows, " rows "});
  const std::uint64_t checksum = fnv1a(above);
  for (int shift = 60; shift >= 0; shift -= 4) out.push_back("0123456789abcdef"[checksum >> shift & 15]);
  return out;
}

/// Reads one table, line by line.
class TuningTableReader {
 public:
  TuningTableReader(std::string_view text, std::string_view source) : text_(text), rest_(text), source_(source) {}

  ALLFOLD_COLD std::vector<TuningRow> read() {
    read_title();
    for (;;) {
      const std::size_t start = text_.size() - rest_.size();
      if (rest_.empty()) refuse({"the table ends early; expected a last line \"end ..\"; try another tuning run"});
      next_line();
      if (word_is("end")) {
        read_end(text_.substr(0, start));
        return std::move(rows_);
      }
      if (!line_.empty() && line_.front() == '#') continue;
      read_row();
    }
  }

 private:
  [[noreturn]] ALLFOLD_COLD void refuse(TextPieces what) const {
    throw UsageError("tuning table", {source_, " line ", line_number_, ": ", concat(what)});
  }

  /// Each line ends in a newline, the last one too: a table that was cut off lacks it.
  ALLFOLD_COLD void next_line() {
    ++line_number_;
    const std::size_t end = rest_.find('\n');
    if (end == std::string_view::npos) refuse({"the line is cut off; try another tuning run"});
    line_ = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
  }

  ALLFOLD_COLD void read_title() {
    if (text_.substr(0, tuning_table_title.size()) != tuning_table_title) {
      line_number_ = 1;
      refuse({"this is no tuning table; expected a first line \"", tuning_table_title, tuning_table_version, "\""});
    }
    next_line();
    const std::string_view version = line_.substr(tuning_table_title.size());
    if (version != tuning_table_version) {
      refuse({"the table is of format \"", version, "\", expected ", tuning_table_version,
              "; try a tuning run with this version of allfold"});
    }
  }

  bool word_is(std::string_view word) const noexcept {
    return line_.substr(0, word.size()) == word && (line_.size() == word.size() || line_[word.size()] == ' ');
  }

  /// Splits the next word off the line; words are one space apart.
  ALLFOLD_COLD std::string_view next_word() noexcept {
    const std::size_t end = line_.find(' ');
    const std::string_view word = line_.substr(0, end);
    line_.remove_prefix(end == std::string_view::npos ? line_.size() : end + 1);
    return word;
  }

  template <class Number>
  ALLFOLD_COLD static bool read_number(std::string_view word, Number& number) noexcept {
    const char* const end = word.data() + word.size();
    const auto [stop, error] = std::from_chars(word.data(), end, number);
    // One spelling for each number, so that a table is read as it was written or not at all.
    return error == std::errc() && stop == end && (word[0] != '0' || word.size() == 1);
  }

  ALLFOLD_COLD void read_row() {
    const std::string_view line = line_;
    TuningRow row;
    const std::string_view world_size = next_word();
    if (!read_number(world_size, row.world_size) || row.world_size < 1) {
      refuse({"expected a world size, \"symmetric\" or \"private\", bytes and an algorithm, got \"", line, "\""});
    }
    const std::string_view memory = next_word();
    row.symmetric = memory == "symmetric";
    if (!row.symmetric && memory != "private") refuse({"expected symmetric or private, got \"", memory, "\""});
    const std::string_view bytes = next_word();
    if (bytes != "unlimited" && (!read_number(bytes, row.up_to_bytes) || row.up_to_bytes == unlimited_bytes)) {
      refuse({"expected a number of bytes or \"unlimited\", got \"", bytes, "\""});
    }
    bool known = false;
    for (const Algorithm algorithm : all_algorithms) {
      if (name(algorithm) != line_) continue;
      row.algorithm = algorithm;
      known = true;
    }
    if (!known) refuse({"expected an algorithm such as two_shot, got \"", line_, "\""});
    if (!rows_.empty() && !tuning_row_before(rows_.back(), row)) {
      refuse({"the rows are out of order; expected ascending world size, symmetric before private, ascending bytes"});
    }
    rows_.push_back(row);
  }

  ALLFOLD_COLD void read_end(std::string_view above) {
    if (line_ != tuning_table_end(above, rows_.size())) {
      refuse({"the table was changed or damaged; expected \"", tuning_table_end(above, rows_.size()), "\", got \"",
              line_, "\"; try another tuning run"});
    }
    if (!rest_.empty()) refuse({"expected nothing after the last line"});
    if (rows_.empty()) refuse({"the table has no rows; try another tuning run"});
  }

  std::string_view text_;
  std::string_view rest_;
  std::string_view line_;
  std::string_view source_;
  int line_number_ = 0;
  std::vector<TuningRow> rows_;
};

}  // namespace detail

/// The rows of a table's text.
/// @throws UsageError, with the line's number and `source`, unless the text is whole and unchanged.
ALLFOLD_COLD inline std::vector<TuningRow> parse_tuning_table(std::string_view text, std::string_view source) {
  return detail::TuningTableReader(text, source).read();
}

/// @throws UsageError if the rows are no table: none at all, out of order, or of no world.
ALLFOLD_COLD inline void check_tuning_rows(std::span<const TuningRow> rows) {
  if (rows.empty()) throw UsageError("tuning table", {"expected at least one row, got none"});
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].world_size < 1) {
      throw UsageError("tuning table", {"row ", i, " is of world size ", rows[i].world_size, "; expected 1 or more"});
    }
    if (i > 0 && !detail::tuning_row_before(rows[i - 1], rows[i])) {
      throw UsageError("tuning table", {"row ", i,
                                        " is out of order; expected ascending world size, symmetric before "
                                        "private, ascending bytes"});
    }
  }
}

/// The text of a table. Each line of `comment` becomes a comment below the first line.
/// @throws UsageError as check_tuning_rows.
ALLFOLD_COLD inline std::string tuning_table_text(std::span<const TuningRow> rows, std::string_view comment = {}) {
  check_tuning_rows(rows);
  std::string out = concat({detail::tuning_table_title, detail::tuning_table_version, "\n"});
  while (!comment.empty()) {
    const std::size_t end = comment.find('\n');
    out.append(concat({"# ", comment.substr(0, end), "\n"}));
    comment.remove_prefix(end == std::string_view::npos ? comment.size() : end + 1);
  }
  for (const TuningRow& row : rows) {
    out.append(concat({row.world_size, row.symmetric ? " symmetric " : " private "}));
    out.append(row.up_to_bytes == unlimited_bytes ? std::string("unlimited") : concat({row.up_to_bytes}));
    out.append(concat({" ", name(row.algorithm), "\n"}));
  }
  out.append(detail::tuning_table_end(out, rows.size()));
  out.push_back('\n');
  return out;
}

}  // namespace allfold
