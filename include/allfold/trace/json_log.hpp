// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <unistd.h>

#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/policy/tracer.hpp>
#include <allfold/trace/json_file.hpp>
#include <allfold/trace/json_line.hpp>

namespace allfold::detail {

/// What two ranks' clocks have in common: the boot of their host's kernel; empty where it is not known.
ALLFOLD_COLD inline std::string boot_text() {
  char text[64];
  const UniqueFd file(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  const ssize_t got = file ? ::read(file.get(), text, sizeof text) : 0;
  const std::string_view id(text, got > 0 ? static_cast<std::size_t>(got) : 0);
  return std::string(id.substr(0, id.find('\n')));
}

/// One rank's comms log, from its first line to its last. Thread-safe.
class JsonLog {
 public:
  /// Creates PREFIX.rank3.jsonl, or the first of PREFIX.rank3.2.jsonl, .. that is not there yet.
  /// @throws SystemError if it cannot be created, or its disk is full.
  JsonLog(std::string_view prefix, std::size_t buffer_bytes, const Where& where)
      : file_(create(prefix, where, path_), buffer_bytes) {
    write_header(where);
    if (const int error = file_.flush()) {
      ::unlink(path_.c_str());
      throw SystemError(where, error, {"could not write ", path_, "; expected room for it; try another prefix"});
    }
  }
  ~JsonLog() {
    file_.flush();  // so that the last line knows what was lost
    write_end();
    file_.flush();
  }
  JsonLog(const JsonLog&) = delete;
  JsonLog& operator=(const JsonLog&) = delete;

  void record(const TraceEvent& event) noexcept {
    const std::lock_guard lock(mutex_);
    try {
      line_.clear();
      write_event(event);
      file_.add(line_);
    } catch (const std::exception&) {
      file_.lose();  // there was no memory for it
    }
    if (event.failed) file_.flush();
  }

  void flush() noexcept {
    const std::lock_guard lock(mutex_);
    file_.flush();
  }

  const std::string& path() const noexcept { return path_; }
  std::uint64_t lost_lines() const noexcept {
    const std::lock_guard lock(mutex_);
    return file_.lost();
  }

 private:
  ALLFOLD_COLD static UniqueFd create(std::string_view prefix, const Where& where, std::string& path) {
    constexpr int most = 10000;
    for (int number = 1; number <= most; ++number) {
      path = concat({prefix, ".rank", where.rank(), number == 1 ? std::string() : concat({".", number}), ".jsonl"});
      UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
      if (file) return file;
      if (errno == EEXIST) continue;
      throw SystemError(where, errno,
                        {"could not create ", path, "; expected a directory that can be written; try another prefix"});
    }
    throw UsageError(where, {"there are ", most, " comms logs of this rank with the prefix ", prefix,
                             "; expected fewer; remove them, or try another prefix"});
  }

  ALLFOLD_COLD void write_header(const Where& where) {
    char host[256] = {};
    if (::gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
    JsonLine line(line_, "header");
    line.text("format", "allfold comms log");
    line.number("version", 1);
    line.number("rank", where.rank());
    line.number("world_size", where.world_size());
    line.text("host", host);
    line.text("boot", boot_text());
    line.number("process", ::getpid());
    line.microseconds("clock_us", Clock::now().time_since_epoch());
    line.microseconds("wall_us", std::chrono::system_clock::now().time_since_epoch());
    line.end();
    file_.add(line_);
  }

  ALLFOLD_COLD void write_end() noexcept {
    try {
      line_.clear();
      JsonLine line(line_, "end");
      line.microseconds("clock_us", Clock::now().time_since_epoch());
      line.number("lost_lines", file_.lost());
      line.end();
      file_.add(line_);
    } catch (const std::exception&) {
      file_.lose();
    }
  }

  void write_event(const TraceEvent& event) {
    JsonLine line(line_, event.kind == TraceKind::wait ? "wait" : "operation");
    line.text("operation", event.operation);
    line.number("sequence", event.sequence);
    line.number("channel", event.channel);
    line.microseconds("begin_us", event.begin.time_since_epoch());
    line.microseconds("end_us", event.end.time_since_epoch());
    if (event.kind == TraceKind::operation) write_call(line, event);
    if (event.failed) line.text("error", event.error);
    line.end();
  }

  static void write_call(JsonLine& line, const TraceEvent& event) {
    if (!event.algorithm.empty()) line.text("algorithm", event.algorithm);
    if (!event.type.empty()) line.text("type", event.type);
    if (!event.reduction.empty()) line.text("reduction", event.reduction);
    line.number("count", event.count);
    line.number("in_bytes", event.in_bytes);
    line.number("out_bytes", event.out_bytes);
    if (!event.in_splits.empty()) line.numbers("in_splits", event.in_splits);
    if (!event.out_splits.empty()) line.numbers("out_splits", event.out_splits);
    if (event.root >= 0) line.number("root", event.root);
    if (event.peer >= 0) line.number("peer", event.peer);
    if (event.tag >= 0) line.number("tag", event.tag);
  }

  mutable std::mutex mutex_;
  std::string path_;
  std::string line_;
  JsonFile file_;
};

}  // namespace allfold::detail
