// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The rows of a run: a table on the terminal, CSV and JSON for machines.

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include <allfold/policy/algorithm.hpp>

#include "subject.hpp"

namespace bench {

/// Of a peer in a row, in the order of the plan's peers.
struct PeerTime {
  double us = 0;  ///< 0: it cannot run the case
  double min_us = 0;
  double cpu_us = 0;
};

/// One collective, one size, one mode, one kind of buffers, one algorithm.
struct Row {
  Collective collective = Collective::all_reduce;
  std::size_t bytes = 0;
  std::size_t count = 0;
  Mode mode = Mode::calls;
  Buffers buffers = Buffers::symmetric;
  allfold::Algorithm algorithm = allfold::Algorithm::none;  ///< `none`: one over messages
  std::string algorithm_name;
  bool chosen = false;  ///< by the selector
  /// Of one call: the median, the least and the most over batches, each the slowest rank's mean.
  double us = 0, min_us = 0, max_us = 0;
  double cpu_us = 0;  ///< the host's share of one call, where it does not wait for it
  bool checked = false, correct = true;
  Ceiling ceiling;
  std::vector<PeerTime> peers;

  double algbw_gbs() const { return static_cast<double>(bytes) / us * 1e-3; }
  /// What each rank moves if it moves no more than it must.
  double busbw_gbs(int ranks) const;
  /// The fastest peer's time over this one's: above 1, allfold is faster. 0 without a peer.
  double ratio() const;
};

class Report {
 public:
  Report(const Plan& plan, int world_size);

  void print_head(const Field& field);
  /// Prints the row and keeps it.
  void add(Row row);
  /// The time is up before the messages of `bytes` and the larger ones.
  void stop(std::size_t bytes);
  void print_summary() const;
  /// What --csv and --json ask for. @throws std::runtime_error if a file cannot be written.
  void write_files() const;

  const std::vector<Row>& rows() const { return rows_; }
  bool all_correct() const;
  bool stopped() const { return stopped_; }

 private:
  using Cell = std::function<std::string(const Row&)>;
  struct Column {
    std::string key;      ///< in CSV; empty: not there
    std::string heading;  ///< in the table; empty: not there
    int width = 0;        ///< negative: the text stands to the left
    Cell in_table, in_csv;
  };

  void number(const char* key, const std::string& heading, int width, int decimals,
              const std::function<double(const Row&)>& value);
  void text(const char* key, const char* heading, int width, const Cell& value);
  double of_ceiling(const Row& row) const { return row.busbw_gbs(world_size_) / plan_.ceiling_gbs; }
  std::string csv() const;
  std::string json() const;

  const Plan& plan_;
  int world_size_;
  std::vector<Column> columns_;
  std::vector<Row> rows_;
  std::string machine_;
  std::vector<std::string> peers_about_, peers_absent_;
  bool stopped_ = false;
};

/// Replaces the file's content. @throws std::runtime_error
void write_file(const std::string& path, const std::string& text);

}  // namespace bench
