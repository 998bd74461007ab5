// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <allfold/base/error.hpp>
#include <allfold/policy/link_matrix.hpp>

namespace allfold {

namespace detail {

/// The words of one line of `nvidia-smi topo -m`, without the escape sequences that underline its header.
ALLFOLD_COLD inline std::vector<std::string> topology_words(std::string_view line) {
  std::vector<std::string> words;
  bool in_word = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\033') {
      while (i < line.size() && line[i] != 'm') ++i;
      continue;
    }
    const bool blank = line[i] == ' ' || line[i] == '\t' || line[i] == '\r';
    if (!blank) {
      if (!in_word) words.emplace_back();
      words.back().push_back(line[i]);
    }
    in_word = !blank;
  }
  return words;
}

/// The number of links that a cell stands for; -1 if it is none of the known ones.
ALLFOLD_COLD inline int links_in_cell(std::string_view cell) noexcept {
  // Old drivers print SOC for SYS.
  for (const std::string_view slow : {"X", "PIX", "PXB", "PHB", "NODE", "SYS", "SOC"}) {
    if (cell == slow) return 0;
  }
  if (cell.size() < 3 || cell.substr(0, 2) != "NV") return -1;
  int links = 0;
  const char* const end = cell.data() + cell.size();
  const auto [stop, error] = std::from_chars(cell.data() + 2, end, links);
  return error == std::errc() && stop == end && links > 0 && links < 256 ? links : -1;
}

}  // namespace detail

/// Reads what `nvidia-smi topo -m` prints: NVLinks become links, PCIe and everything slower none. Columns and rows
/// of network adapters, affinities and the legend are passed over; lines that start with # are comments.
/// `gpus`: how many of the GPUs to take, from the first; 0 takes all.
/// @throws UsageError with the line's number, named as of `source`.
ALLFOLD_COLD inline LinkMatrix parse_link_matrix(std::string_view text, std::string_view source, int gpus = 0) {
  const auto refuse = [source](int line, TextPieces what) {
    throw UsageError("topology", {source, " line ", line, ": ", concat(what)});
  };
  LinkMatrix matrix;
  int columns = 0;
  int rows = 0;
  int line_number = 0;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    ++line_number;
    const std::vector<std::string> words = detail::topology_words(line);
    if (words.empty() || words[0][0] == '#') continue;
    if (columns == 0) {
      while (static_cast<std::size_t>(columns) < words.size() &&
             words[static_cast<std::size_t>(columns)] == concat({"GPU", columns})) {
        ++columns;
      }
      if (columns == 0) refuse(line_number, {"expected the header GPU0 GPU1 .., got \"", line, "\""});
      matrix.world_size = gpus == 0 ? columns : gpus;
      if (matrix.world_size < 1 || matrix.world_size > columns || matrix.world_size > max_window_ranks) {
        refuse(line_number, {"cannot take ", matrix.world_size, " of ", columns, " GPUs; expected 1 to ",
                             columns < max_window_ranks ? columns : max_window_ranks});
      }
      continue;
    }
    if (rows == matrix.world_size) break;
    if (words[0] != concat({"GPU", rows})) refuse(line_number, {"expected the row GPU", rows, ", got ", words[0]});
    if (words.size() <= static_cast<std::size_t>(columns)) {
      refuse(line_number, {"expected ", columns, " cells, got ", words.size() - 1});
    }
    for (int column = 0; column < matrix.world_size; ++column) {
      const std::string& cell = words[static_cast<std::size_t>(column) + 1];
      const int links = detail::links_in_cell(cell);
      if (links < 0) refuse(line_number, {"expected NV#, X, PIX, PXB, PHB, NODE or SYS, got \"", cell, "\""});
      if ((cell == "X") != (rows == column)) refuse(line_number, {"expected X on the diagonal alone"});
      matrix.links[rows][column] = static_cast<std::uint8_t>(links);
    }
    ++rows;
  }
  if (columns == 0) refuse(line_number, {"the text ends; expected the header GPU0 GPU1 .."});
  if (rows < matrix.world_size) {
    refuse(line_number, {"the text ends early; expected ", matrix.world_size, " rows, got ", rows});
  }
  for (int a = 0; a < matrix.world_size; ++a) {
    for (int b = 0; b < a; ++b) {
      if (matrix.links[a][b] == matrix.links[b][a]) continue;
      throw UsageError("topology", {source, ": expected as many links from GPU", a, " to GPU", b, " as back, got ",
                                    int{matrix.links[a][b]}, " and ", int{matrix.links[b][a]}});
    }
  }
  return matrix;
}

}  // namespace allfold
