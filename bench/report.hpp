// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The rows of a run: a table on the terminal, CSV and JSON for machines.

#include <cstddef>
#include <string>
#include <vector>

#include <allfold/policy/algorithm.hpp>

#include "plan.hpp"

namespace bench {

/// Bandwidth of this machine's memory, each rank on its own core and all at once: GB/s of payload per rank.
struct Ceiling {
  double copy_gbs = 0;  ///< b = a: the faster of memcpy and streaming stores
  double add_gbs = 0;   ///< b += a
};

struct PeerTime {
  std::string name;
  double us = 0;  ///< 0: this peer cannot run the case
};

/// One size, one kind of buffers, one algorithm.
struct Row {
  std::size_t bytes = 0;
  std::size_t count = 0;
  Buffers buffers = Buffers::symmetric;
  allfold::Algorithm algorithm = allfold::Algorithm::none;
  bool chosen = false;  ///< by the selector
  /// Of one call: the median, the least and the most over batches, each the slowest rank's mean.
  double us = 0, min_us = 0, max_us = 0;
  bool checked = false, correct = true;
  Ceiling ceiling;
  std::vector<PeerTime> peers;

  double algbw_gbs() const { return static_cast<double>(bytes) / us * 1e-3; }
  double busbw_gbs(int ranks) const { return algbw_gbs() * 2 * (ranks - 1) / ranks; }
  /// The fastest peer's time over this one's: above 1, allfold is faster. 0 without a peer.
  double ratio() const;
};

class Report {
 public:
  Report(const Plan& plan, int world_size) : plan_(plan), world_size_(world_size) {}

  void print_head() const;
  /// Prints the row and keeps it.
  void add(Row row);
  void print_summary() const;
  /// What --csv and --json ask for. @throws std::runtime_error if a file cannot be written.
  void write_files() const;

  const std::vector<Row>& rows() const { return rows_; }
  bool all_correct() const;

 private:
  std::string csv() const;
  std::string json() const;

  const Plan& plan_;
  int world_size_;
  std::vector<Row> rows_;
};

/// Replaces the file's content. @throws std::runtime_error
void write_file(const std::string& path, const std::string& text);

}  // namespace bench
