// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <allfold/base/error.hpp>
#include <allfold/base/variables.hpp>
#include <allfold/policy/tracer.hpp>
#include <allfold/trace/json_log.hpp>

namespace allfold {

/// Where a comms log goes, and when. The environment goes before what the program says.
struct JsonTracerOptions {
  /// Rank 3 writes PREFIX.rank3.jsonl; empty: there is no log. ALLFOLD_COMMS_LOG.
  std::string prefix;
  /// Whether each line is written at once, so that a rank that is killed leaves all it had; else lines are written when
  /// `buffer_bytes` of them have come together, when an operation fails, and at the end. ALLFOLD_COMMS_LOG_FLUSH is
  /// `line` or `buffer`.
  bool flush_every_line = false;
  std::size_t buffer_bytes = std::size_t{64} << 10;

  /// The same, but for what the environment says.   @throws UsageError for a variable that holds anything else.
  ALLFOLD_COLD JsonTracerOptions with_environment() const {
    JsonTracerOptions options = *this;
    if (std::optional<std::string> given = variable("ALLFOLD_COMMS_LOG")) {
      if (given->back() == '/') {
        throw UsageError("environment",
                         {"ALLFOLD_COMMS_LOG is \"", *given,
                          "\", a directory; expected the beginning of a file's name; try \"", *given, "comms\""});
      }
      options.prefix = std::move(*given);
    }
    if (const auto flush = choice_variable("ALLFOLD_COMMS_LOG_FLUSH", {"buffer", "line"})) {
      options.flush_every_line = *flush == 1;
    }
    return options;
  }
};

/// Writes a comms log: for each rank a file, with a line of JSON for each operation and each wait (docs/comms_log.md).
/// Another communicator of the rank writes PREFIX.rank3.2.jsonl, and so on: a file that is there is left alone.
/// Thread-safe. An operation does not fail because its line cannot be written: the last line says how many were lost.
/// Cost: docs/comms_log.md.
class JsonTracer {
 public:
  using policy_category = tracer_tag;
  static constexpr bool enabled = true;

  /// @throws UsageError as JsonTracerOptions::with_environment.
  explicit JsonTracer(const JsonTracerOptions& options) : options_(options.with_environment()) {}
  JsonTracer() : JsonTracer(JsonTracerOptions{}) {}

  /// A copy has the same options, and a log of its own once it is opened.
  JsonTracer(const JsonTracer& other) : options_(other.options_) {}
  JsonTracer& operator=(const JsonTracer&) = delete;
  JsonTracer(JsonTracer&&) noexcept = default;
  JsonTracer& operator=(JsonTracer&&) noexcept = default;
  ~JsonTracer() = default;

  /// Starts the rank's file.   @throws SystemError if it cannot be created, or there is no room on its disk.
  ALLFOLD_COLD void open(int rank, int world_size) {
    if (options_.prefix.empty()) return;
    log_ = std::make_unique<detail::JsonLog>(options_.prefix, options_.flush_every_line ? 0 : options_.buffer_bytes,
                                             Where("comms log", rank, world_size));
  }

  /// Takes a line for the event; none before `open`.
  void record(const TraceEvent& event) noexcept {
    if (log_ != nullptr) log_->record(event);
  }

  /// Writes the lines that wait.
  void flush() noexcept {
    if (log_ != nullptr) log_->flush();
  }

  const JsonTracerOptions& options() const noexcept { return options_; }
  /// The file's name; empty if there is no log.
  std::string path() const { return log_ == nullptr ? std::string() : log_->path(); }
  /// How many lines could not be written so far.
  std::uint64_t lost_lines() const noexcept { return log_ == nullptr ? 0 : log_->lost_lines(); }

 private:
  JsonTracerOptions options_;
  std::unique_ptr<detail::JsonLog> log_;
};
static_assert(tracer_policy<JsonTracer>);

}  // namespace allfold
