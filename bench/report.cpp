// SPDX-License-Identifier: Apache-2.0

#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <stdexcept>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <nlohmann/json.hpp>

#include <allfold/base/unique_fd.hpp>
#include <allfold/version.hpp>

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

/// Of connections within this host: a route may have another than the host's.
std::string congestion_control() {
  const allfold::UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const allfold::UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in at = {};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const address = reinterpret_cast<sockaddr*>(&at);
  socklen_t bytes = sizeof at;
  char name[16] = {};
  socklen_t room = sizeof name - 1;
  const bool known = ::bind(listener.get(), address, bytes) == 0 && ::listen(listener.get(), 1) == 0 &&
                     ::getsockname(listener.get(), address, &bytes) == 0 &&
                     ::connect(socket.get(), address, bytes) == 0 &&
                     ::getsockopt(socket.get(), IPPROTO_TCP, TCP_CONGESTION, name, &room) == 0;
  return known ? name : "unknown";
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[32] = {};
  std::tm utc{};
  std::strftime(text, sizeof text, "%Y-%m-%d", gmtime_r(&now, &utc));
  return text;
}

std::string check_text(const Row& row) { return !row.checked ? "-" : row.correct ? "ok" : "WRONG"; }

std::string aligned(const std::string& text, int width) {
  return width < 0 ? fmt::format("{:<{}}", text, -width) : fmt::format("{:>{}}", text, width);
}

}  // namespace

double Row::busbw_gbs(int ranks) const {
  const double others = ranks - 1;
  switch (collective) {
    case Collective::all_reduce: return algbw_gbs() * 2 * others / ranks;
    case Collective::reduce_scatter: return algbw_gbs() * others / ranks;
    case Collective::all_gather:
    case Collective::all_to_all: return algbw_gbs() * others;
    case Collective::broadcast: break;
  }
  return algbw_gbs();
}

double Row::ratio() const {
  double best = 0;
  for (const PeerTime& peer : peers) {
    if (peer.us > 0 && (best == 0 || peer.us < best)) best = peer.us;
  }
  return best / us;
}

Report::Report(const Plan& plan, int world_size) : plan_(plan), world_size_(world_size) {
  const bool cuda = plan.device == Device::cuda;
  const bool ucx = plan.transport == Transport::ucx;
  if (ucx) text("collective", "collective", -14, [](const Row& row) { return name(row.collective); });
  number("bytes", "bytes", 10, 0, [](const Row& row) { return static_cast<double>(row.bytes); });
  number("count", "count", 10, 0, [](const Row& row) { return static_cast<double>(row.count); });
  text("type", "", 0, [this](const Row&) { return name(plan_.type); });
  text("op", "", 0, [this](const Row&) { return name(plan_.op); });
  text("ranks", "", 0, [this](const Row&) { return std::to_string(world_size_); });
  text("ranks_are", "", 0, [this](const Row&) { return plan_.threads ? "threads" : "processes"; });
  text("in_place", "", 0, [this](const Row&) { return plan_.in_place ? "1" : "0"; });
  if (cuda) text("mode", "mode", -5, [](const Row& row) { return name(row.mode); });
  text("buffers", ucx ? "" : "buffers", 9, [](const Row& row) { return name(row.buffers); });
  columns_.push_back(
      {.key = "algorithm",
       .heading = "algorithm",
       .width = -17,
       .in_table = [](const Row& row) { return fmt::format("{}{}", row.algorithm_name, row.chosen ? "*" : ""); },
       .in_csv = [](const Row& row) { return row.algorithm_name; }});
  text("chosen", "", 0, [](const Row& row) { return row.chosen ? "1" : "0"; });
  number("time_us", "time", 10, 2, [](const Row& row) { return row.us; });
  number("min_us", "", 0, 2, [](const Row& row) { return row.min_us; });
  number("max_us", "", 0, 2, [](const Row& row) { return row.max_us; });
  if (cuda) number("cpu_us", "cpu", 6, 2, [](const Row& row) { return row.cpu_us; });
  number("algbw_gbs", "algbw", 7, 2, [](const Row& row) { return row.algbw_gbs(); });
  number("busbw_gbs", "busbw", 7, 2, [this](const Row& row) { return row.busbw_gbs(world_size_); });
  text("check", "check", 5, check_text);
  if (cuda) {
    number("of_ceiling", "of ceil", 7, 3, [this](const Row& row) { return of_ceiling(row); });
  } else if (ucx) {
    number("tcp_us", "tcp", 10, 2, [](const Row& row) { return row.ceiling.tcp_us; });
  } else {
    number("copy_gbs", "copy", 6, 1, [](const Row& row) { return row.ceiling.copy_gbs; });
    number("add_gbs", "add", 6, 1, [](const Row& row) { return row.ceiling.add_gbs; });
    number("busbw_over_copy", "x copy", 6, 2,
           [this](const Row& row) { return row.busbw_gbs(world_size_) / row.ceiling.copy_gbs; });
  }
  for (std::size_t i = 0; i < plan.peers.size(); ++i) {
    number((plan.peers[i] + "_us").c_str(), plan.peers[i], 10, 2, [i](const Row& row) { return row.peers[i].us; });
    Column& column = columns_.back();
    column.in_table = [this, i, there = column.in_table](const Row& row) {
      return peers_absent_[i].empty() ? there(row) : std::string("absent");
    };
  }
  number("ratio", plan.peers.empty() ? "" : "ratio", 6, 2, [](const Row& row) { return row.ratio(); });
}

/// 0 means that there is no such number: "-" in the table, nothing in CSV. CSV has two decimals more.
void Report::number(const char* key, const std::string& heading, int width, int decimals,
                    const std::function<double(const Row&)>& value) {
  columns_.push_back({.key = key,
                      .heading = heading,
                      .width = width,
                      .in_table =
                          [=](const Row& row) {
                            return value(row) > 0 ? fmt::format("{:.{}f}", value(row), decimals) : std::string("-");
                          },
                      .in_csv =
                          [=](const Row& row) {
                            return value(row) > 0 ? fmt::format("{:.{}f}", value(row), decimals == 0 ? 0 : decimals + 2)
                                                  : std::string();
                          }});
}

void Report::text(const char* key, const char* heading, int width, const Cell& value) {
  columns_.push_back({.key = key, .heading = heading, .width = width, .in_table = value, .in_csv = value});
}

void Report::print_head(const Field& field) {
  const std::string what = plan_.collectives.size() == 1 ? name(plan_.collectives.front()) : "collectives";
  print(fmt::format("# allfold {} {}: {} ranks ({}), {} {}, {}", allfold::version_string, what, world_size_,
                    plan_.threads ? "threads" : "processes", name(plan_.type), name(plan_.op),
                    plan_.in_place ? "in place" : "out of place"));
  machine_ = field.own->about();
  if (plan_.device == Device::cuda) {
    print(fmt::format("# {}; time: us of one call, back to back; cpu: us to enqueue one; of ceil: busbw / {} GB/s",
                      machine_, plan_.ceiling_gbs));
  } else if (plan_.transport == Transport::ucx) {
    print(
        fmt::format("# {}, {} cores, {}, TCP congestion control {}; time: us of one call, back to back; tcp: us of as "
                    "many bytes one way over a socket",
                    cpu_model(), plan_.cores.size(), machine_, congestion_control()));
  } else {
    print(fmt::format("# {}, {} cores; time: us of one call, back to back; copy, add: GB/s of one core, all at work",
                      cpu_model(), plan_.cores.size()));
  }
  for (const auto& peer : field.peers) {
    peers_about_.push_back(peer->about());
    peers_absent_.push_back(peer->absent());
    if (!peer->absent().empty()) {
      print(fmt::format("# {} is absent: {}", peer->name(), peer->absent()));
    } else if (!peer->about().empty()) {
      print(fmt::format("# {}: {}", peer->name(), peer->about()));
    }
  }
  std::string head;
  for (const Column& column : columns_) {
    if (!column.heading.empty()) head += (head.empty() ? "" : " ") + aligned(column.heading, column.width);
  }
  print(head);
}

void Report::add(Row row) {
  std::string line;
  for (const Column& column : columns_) {
    if (!column.heading.empty()) line += (line.empty() ? "" : " ") + aligned(column.in_table(row), column.width);
  }
  print(line);
  rows_.push_back(std::move(row));
}

void Report::stop(std::size_t bytes) {
  stopped_ = true;
  print(fmt::format("# stopped before {} bytes: the run has had its {} s; see --timeout", bytes, plan_.timeout_s));
}

void Report::print_summary() const {
  if (rows_.empty()) return print("# nothing ran");
  const auto best = std::max_element(rows_.begin(), rows_.end(), [&](const Row& a, const Row& b) {
    return a.busbw_gbs(world_size_) < b.busbw_gbs(world_size_);
  });
  const std::string limit =
      plan_.device == Device::cuda ? fmt::format("{:.3f} of {} GB/s", of_ceiling(*best), plan_.ceiling_gbs)
      : plan_.transport == Transport::ucx
          ? fmt::format("{:.2f} of a socket, one way",
                        best->ceiling.tcp_us * best->busbw_gbs(world_size_) * 1e3 / static_cast<double>(best->bytes))
          : fmt::format("{:.2f} of what one core copies there", best->busbw_gbs(world_size_) / best->ceiling.copy_gbs);
  print(fmt::format("# best busbw {:.2f} GB/s at {} bytes ({}, {}): {}", best->busbw_gbs(world_size_), best->bytes,
                    name(best->buffers), best->algorithm_name, limit));
  for (const Mode mode : plan_.modes) {
    for (const Buffers buffers : plan_.buffers) {
      double log_sum = 0, least = 0;
      int n = 0;
      for (const Row& row : rows_) {
        const double ratio = row.buffers == buffers && row.mode == mode ? row.ratio() : 0;
        if (ratio <= 0) continue;
        log_sum += std::log(ratio);
        least = n == 0 ? ratio : std::min(least, ratio);
        ++n;
      }
      if (n == 0) continue;
      print(fmt::format("# {}{} buffers: the best peer's time over allfold's: {:.2f} geometric mean, {:.2f} at worst",
                        mode == Mode::calls ? "" : fmt::format("{}, ", name(mode)), name(buffers),
                        std::exp(log_sum / n), least));
    }
  }
  if (!all_correct()) print("# WRONG results: see the column check");
}

bool Report::all_correct() const {
  return std::all_of(rows_.begin(), rows_.end(), [](const Row& row) { return row.correct; });
}

std::string Report::csv() const {
  std::string out;
  const auto line = [&](auto&& cell) {
    bool first = true;
    for (const Column& column : columns_) {
      out += (first ? "" : ",") + cell(column);
      first = false;
    }
    out += '\n';
  };
  line([](const Column& column) { return column.key; });
  for (const Row& row : rows_) line([&](const Column& column) { return column.in_csv(row); });
  return out;
}

std::string Report::json() const {
  const bool cuda = plan_.device == Device::cuda;
  const bool ucx = plan_.transport == Transport::ucx;
  nlohmann::ordered_json out = {
      {"benchmark", plan_.collectives.size() == 1 ? name(plan_.collectives.front()) : "collectives"},
      {"command", plan_.command_line},
      {"date", today()},
      {"allfold", allfold::version_string},
      {"compiler", __VERSION__},
      {"machine", {{"cpu", cpu_model()}, {"cores", plan_.cores.size()}}},
      {"ranks", world_size_},
      {"ranks_are", plan_.threads ? "threads" : "processes"},
      {"type", name(plan_.type)},
      {"op", name(plan_.op)},
      {"in_place", plan_.in_place},
      {"rounds", plan_.rounds},
      {"batches_per_round", plan_.batches},
  };
  if (cuda) {
    out["machine"]["gpu"] = machine_;
    out["ceiling_gbs"] = plan_.ceiling_gbs;
    for (std::size_t i = 0; i < peers_about_.size(); ++i) {
      out["peers"][plan_.peers[i]] = peers_absent_[i].empty() ? peers_about_[i] : "absent: " + peers_absent_[i];
    }
  }
  if (ucx) {
    out["transport"] = machine_;
    out["tcp_congestion_control"] = congestion_control();
  }
  out["rows"] = nlohmann::ordered_json::array();
  for (const Row& row : rows_) {
    nlohmann::ordered_json peers = nlohmann::ordered_json::object();
    nlohmann::ordered_json peers_min = nlohmann::ordered_json::object();
    nlohmann::ordered_json peers_cpu = nlohmann::ordered_json::object();
    for (std::size_t i = 0; i < row.peers.size(); ++i) {
      if (row.peers[i].us > 0) peers[plan_.peers[i]] = row.peers[i].us;
      if (row.peers[i].us > 0) peers_min[plan_.peers[i]] = row.peers[i].min_us;
      if (row.peers[i].cpu_us > 0) peers_cpu[plan_.peers[i]] = row.peers[i].cpu_us;
    }
    nlohmann::ordered_json entry;
    if (ucx) entry["collective"] = name(row.collective);
    entry.update({{"bytes", row.bytes}, {"count", row.count}});
    if (cuda) entry["mode"] = name(row.mode);
    entry.update({{"buffers", name(row.buffers)},
                  {"algorithm", row.algorithm_name},
                  {"chosen", row.chosen},
                  {"time_us", row.us},
                  {"min_us", row.min_us},
                  {"max_us", row.max_us}});
    if (row.cpu_us > 0) entry["cpu_us"] = row.cpu_us;
    entry.update(
        {{"algbw_gbs", row.algbw_gbs()}, {"busbw_gbs", row.busbw_gbs(world_size_)}, {"check", check_text(row)}});
    if (cuda) {
      entry["of_ceiling"] = of_ceiling(row);
    } else if (ucx) {
      entry["tcp_us"] = row.ceiling.tcp_us;
    } else {
      entry.update({{"copy_gbs", row.ceiling.copy_gbs}, {"add_gbs", row.ceiling.add_gbs}});
    }
    entry["peers_us"] = std::move(peers);
    entry["peers_min_us"] = std::move(peers_min);
    if (!peers_cpu.empty()) entry["peers_cpu_us"] = std::move(peers_cpu);
    entry["ratio"] = row.ratio();
    out["rows"].push_back(std::move(entry));
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
