// SPDX-License-Identifier: Apache-2.0

#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <stdexcept>

#include <fmt/format.h>
#include <allfold/version.hpp>
#include <nlohmann/json.hpp>

namespace bench {
namespace {

void print(const std::string& line) {
  std::fputs(line.c_str(), stdout);
  std::fputc('\n', stdout);
  std::fflush(stdout);
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.find(':') + 2, line.size()));
  }
  return "unknown";
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[32] = {};
  std::tm utc{};
  std::strftime(text, sizeof text, "%Y-%m-%d", gmtime_r(&now, &utc));
  return text;
}

std::string check_text(const Row& row) { return !row.checked ? "-" : row.correct ? "ok" : "WRONG"; }

std::string ratio_text(double ratio) { return ratio > 0 ? fmt::format("{:.2f}", ratio) : "-"; }

std::string peer_text(double us) { return us > 0 ? fmt::format("{:.2f}", us) : "-"; }

}  // namespace

double Row::ratio() const {
  double best = 0;
  for (const PeerTime& peer : peers) {
    if (peer.us > 0 && (best == 0 || peer.us < best)) best = peer.us;
  }
  return best / us;
}

void Report::print_head() const {
  print(fmt::format("# allfold {} all_reduce: {} ranks ({}), {} {}, {}", allfold::version_string, world_size_,
                    plan_.threads ? "threads" : "processes", name(plan_.type), name(plan_.op),
                    plan_.in_place ? "in place" : "out of place"));
  print(fmt::format("# {}, {} cores; time: us of one call, back to back; copy, add: GB/s of one core, all at work",
                    cpu_model(), plan_.cores.size()));
  std::string head =
      fmt::format("{:>10} {:>10} {:>9} {:<17} {:>10} {:>7} {:>7} {:>5} {:>6} {:>6} {:>6}", "bytes", "count", "buffers",
                  "algorithm", "time", "algbw", "busbw", "check", "copy", "add", "x copy");
  for (const std::string& peer : plan_.peers) head += fmt::format(" {:>10}", peer);
  if (!plan_.peers.empty()) head += fmt::format(" {:>6}", "ratio");
  print(head);
}

void Report::add(Row row) {
  const double busbw = row.busbw_gbs(world_size_);
  std::string line = fmt::format(
      "{:>10} {:>10} {:>9} {:<17} {:>10.2f} {:>7.2f} {:>7.2f} {:>5} {:>6.1f} {:>6.1f} {:>6.2f}", row.bytes, row.count,
      name(row.buffers), fmt::format("{}{}", allfold::name(row.algorithm), row.chosen ? "*" : ""), row.us,
      row.algbw_gbs(), busbw, check_text(row), row.ceiling.copy_gbs, row.ceiling.add_gbs, busbw / row.ceiling.copy_gbs);
  for (const PeerTime& peer : row.peers) line += fmt::format(" {:>10}", peer_text(peer.us));
  if (!row.peers.empty()) line += fmt::format(" {:>6}", ratio_text(row.ratio()));
  print(line);
  rows_.push_back(std::move(row));
}

void Report::print_summary() const {
  if (rows_.empty()) return print("# nothing ran");
  const auto best = std::max_element(rows_.begin(), rows_.end(), [&](const Row& a, const Row& b) {
    return a.busbw_gbs(world_size_) < b.busbw_gbs(world_size_);
  });
  print(fmt::format("# best busbw {:.2f} GB/s at {} bytes ({}, {}): {:.2f} of what one core copies there",
                    best->busbw_gbs(world_size_), best->bytes, name(best->buffers), allfold::name(best->algorithm),
                    best->busbw_gbs(world_size_) / best->ceiling.copy_gbs));
  for (const Buffers buffers : plan_.buffers) {
    double log_sum = 0, least = 0;
    int n = 0;
    for (const Row& row : rows_) {
      const double ratio = row.buffers == buffers ? row.ratio() : 0;
      if (ratio <= 0) continue;
      log_sum += std::log(ratio);
      least = n == 0 ? ratio : std::min(least, ratio);
      ++n;
    }
    if (n > 0) {
      print(fmt::format("# {} buffers: the best peer's time over allfold's: {:.2f} geometric mean, {:.2f} at worst",
                        name(buffers), std::exp(log_sum / n), least));
    }
  }
  if (!all_correct()) print("# WRONG results: see the column check");
}

bool Report::all_correct() const {
  return std::all_of(rows_.begin(), rows_.end(), [](const Row& row) { return row.correct; });
}

std::string Report::csv() const {
  std::string text =
      "bytes,count,type,op,ranks,mode,in_place,buffers,algorithm,chosen,time_us,min_us,max_us,algbw_gbs,busbw_gbs,"
      "check,copy_gbs,add_gbs,busbw_over_copy";
  for (const std::string& peer : plan_.peers) text += fmt::format(",{}_us", peer);
  text += ",ratio\n";
  for (const Row& row : rows_) {
    const double busbw = row.busbw_gbs(world_size_);
    text +=
        fmt::format("{},{},{},{},{},{},{:d},{},{},{:d},{:.4f},{:.4f},{:.4f},{:.4f},{:.4f},{},{:.3f},{:.3f},{:.4f}",
                    row.bytes, row.count, name(plan_.type), name(plan_.op), world_size_,
                    plan_.threads ? "threads" : "processes", plan_.in_place, name(row.buffers),
                    allfold::name(row.algorithm), row.chosen, row.us, row.min_us, row.max_us, row.algbw_gbs(), busbw,
                    check_text(row), row.ceiling.copy_gbs, row.ceiling.add_gbs, busbw / row.ceiling.copy_gbs);
    for (const PeerTime& peer : row.peers) text += peer.us > 0 ? fmt::format(",{:.4f}", peer.us) : ",";
    text += row.ratio() > 0 ? fmt::format(",{:.4f}\n", row.ratio()) : ",\n";
  }
  return text;
}

std::string Report::json() const {
  nlohmann::ordered_json out = {
      {"benchmark", "all_reduce"},
      {"command", plan_.command_line},
      {"date", today()},
      {"allfold", allfold::version_string},
      {"compiler", __VERSION__},
      {"machine", {{"cpu", cpu_model()}, {"cores", plan_.cores.size()}}},
      {"ranks", world_size_},
      {"mode", plan_.threads ? "threads" : "processes"},
      {"type", name(plan_.type)},
      {"op", name(plan_.op)},
      {"in_place", plan_.in_place},
      {"rounds", plan_.rounds},
      {"batches_per_round", plan_.batches},
      {"rows", nlohmann::ordered_json::array()},
  };
  for (const Row& row : rows_) {
    nlohmann::ordered_json peers = nlohmann::ordered_json::object();
    for (const PeerTime& peer : row.peers) {
      if (peer.us > 0) peers[peer.name] = peer.us;
    }
    out["rows"].push_back({{"bytes", row.bytes},
                           {"count", row.count},
                           {"buffers", name(row.buffers)},
                           {"algorithm", allfold::name(row.algorithm)},
                           {"chosen", row.chosen},
                           {"time_us", row.us},
                           {"min_us", row.min_us},
                           {"max_us", row.max_us},
                           {"algbw_gbs", row.algbw_gbs()},
                           {"busbw_gbs", row.busbw_gbs(world_size_)},
                           {"check", check_text(row)},
                           {"copy_gbs", row.ceiling.copy_gbs},
                           {"add_gbs", row.ceiling.add_gbs},
                           {"peers_us", std::move(peers)},
                           {"ratio", row.ratio()}});
  }
  return out.dump(1) + "\n";
}

void Report::write_files() const {
  if (!plan_.csv_file.empty()) write_file(plan_.csv_file, csv());
  if (!plan_.json_file.empty()) write_file(plan_.json_file, json());
}

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  if (!file) throw std::runtime_error("allfold_perf: cannot write " + path);
}

}  // namespace bench
