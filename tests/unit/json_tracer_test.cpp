// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>

#include <allfold/trace/json_tracer.hpp>
#include <support/folder.hpp>

namespace {

using allfold::JsonTracer;
using allfold::JsonTracerOptions;
using allfold::TraceEvent;
using allfold::detail::JsonFile;
using allfold_test::Folder;
using allfold_test::lines_of;
using allfold_test::text_of;

static_assert(std::is_copy_constructible_v<JsonTracer> && std::is_nothrow_move_assignable_v<JsonTracer>);

allfold::Clock::time_point at_ns(long long ns) { return allfold::Clock::time_point(std::chrono::nanoseconds(ns)); }

TraceEvent barrier(std::uint32_t sequence) {
  TraceEvent event;
  event.operation = "barrier";
  event.sequence = sequence;
  event.begin = at_ns(1000);
  event.end = at_ns(2000);
  return event;
}

std::string barrier_line(std::uint32_t sequence) {
  return "{\"kind\":\"operation\",\"operation\":\"barrier\",\"sequence\":" + std::to_string(sequence) +
         ",\"channel\":0,\"begin_us\":1.000,\"end_us\":2.000,\"count\":0,\"in_bytes\":0,\"out_bytes\":0}";
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

std::string json_string(std::string_view text) {
  std::string out;
  allfold::detail::append_json_string(out, text);
  return out;
}

/// While it lives, files of this process end at so many bytes, as on a disk that is full.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &old_) == 0);
    set(bytes);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  void set(rlim_t bytes) {
    const rlimit limit{bytes, old_.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }

  rlimit old_{};
  void (*old_handler_)(int);
};

/// An environment variable that is as before when the test ends.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name), old_(allfold::variable(name)) {
    ::setenv(name, value, 1);
  }
  ~Variable() { old_ ? ::setenv(name_, old_->c_str(), 1) : ::unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> old_;
};

}  // namespace

TEST_CASE("a log is a header, a line for each event, and an end") {
  const Folder folder;
  {
    JsonTracer tracer(JsonTracerOptions{.prefix = folder.file("log")});
    tracer.open(3, 8);
    CHECK(tracer.path() == folder.file("log.rank3.jsonl"));
    const std::size_t to[] = {1, 0, 20};
    const std::size_t from[] = {7};
    TraceEvent event;
    event.operation = "all_to_all_v";
    event.type = "float";
    event.reduction = "sum";
    event.algorithm = "pairwise";
    event.count = 21;
    event.in_bytes = 84;
    event.out_bytes = 28;
    event.in_splits = to;
    event.out_splits = from;
    event.root = 0;
    event.peer = 2;
    event.tag = 5;
    event.channel = 1;
    event.sequence = 4294967295U;
    event.begin = at_ns(123456789);
    event.end = at_ns(987654321000007);
    tracer.record(event);
    event.kind = allfold::TraceKind::wait;
    tracer.record(event);
    tracer.record(barrier(1));
  }
  const std::vector<std::string> lines = lines_of(text_of(folder.file("log.rank3.jsonl")));
  REQUIRE(lines.size() == 5);
  CHECK(lines[0].starts_with(R"({"kind":"header","format":"allfold comms log","version":1,"rank":3,"world_size":8,)"));
  for (const char* const key : {"\"host\":\"", "\"boot\":\"", "\"process\":", "\"clock_us\":", "\"wall_us\":"}) {
    CHECK(contains(lines[0], key));
  }
  CHECK(lines[1] == R"({"kind":"operation","operation":"all_to_all_v","sequence":4294967295,"channel":1,)"
                    R"("begin_us":123456.789,"end_us":987654321000.007,"algorithm":"pairwise","type":"float",)"
                    R"("reduction":"sum","count":21,"in_bytes":84,"out_bytes":28,"in_splits":[1,0,20],)"
                    R"("out_splits":[7],"root":0,"peer":2,"tag":5})");
  CHECK(lines[2] == R"({"kind":"wait","operation":"all_to_all_v","sequence":4294967295,"channel":1,)"
                    R"("begin_us":123456.789,"end_us":987654321000.007})");
  CHECK(lines[3] == barrier_line(1));
  CHECK(lines[4].starts_with(R"({"kind":"end","clock_us":)"));
  CHECK(lines[4].ends_with(R"(,"lost_lines":0})"));
}

TEST_CASE("whatever names contain, a line is JSON") {
  CHECK(json_string("") == R"("")");
  CHECK(json_string("float") == R"("float")");
  CHECK(json_string("a\"b\\c/d") == R"("a\"b\\c/d")");
  CHECK(json_string(std::string_view("\n\t\0\x1f\x7f", 5)) == "\"\\u000a\\u0009\\u0000\\u001f\x7f\"");
  CHECK(json_string("gr\u00fc\u00df \u20ac \U0001f600") == "\"gr\u00fc\u00df \u20ac \U0001f600\"");
  // Names in call records are cut, in the middle of a character too.
  CHECK(json_string("a\xc3") == R"("a\ufffd")");
  CHECK(json_string("\xe2\x82") == R"("\ufffd\ufffd")");
  CHECK(json_string("\x80z") == R"("\ufffdz")");
  CHECK(json_string("\xc0\x80") == R"("\ufffd\ufffd")");                      // too long a form of zero
  CHECK(json_string("\xe0\x9f\xbf") == R"("\ufffd\ufffd\ufffd")");            // too long a form
  CHECK(json_string("\xed\xa0\x80") == R"("\ufffd\ufffd\ufffd")");            // half of a surrogate pair
  CHECK(json_string("\xf4\x90\x80\x80") == R"("\ufffd\ufffd\ufffd\ufffd")");  // past the last character
  CHECK(json_string("\xff") == R"("\ufffd")");
}

TEST_CASE("lines are written when enough have come together, when asked, and at the end") {
  const Folder folder;
  JsonTracer tracer(JsonTracerOptions{.prefix = folder.file("log"), .buffer_bytes = 1000});
  tracer.open(0, 1);
  const std::string path = tracer.path();
  const auto written = [&] { return lines_of(text_of(path)).size(); };
  CHECK(written() == 1);
  tracer.record(barrier(1));
  CHECK(written() == 1);
  tracer.flush();
  CHECK(written() == 2);
  const std::size_t full = 1000 / (barrier_line(2).size() + 1) + 1;
  for (std::size_t i = 0; i < full; ++i) tracer.record(barrier(2));
  CHECK(written() == 2 + full);
  tracer.record(barrier(3));
  CHECK(written() == 2 + full);
  tracer = JsonTracer(JsonTracerOptions{});
  CHECK(written() == 2 + full + 2);
}

TEST_CASE("a failure is written at once, with what came before it") {
  const Folder folder;
  JsonTracer tracer(JsonTracerOptions{.prefix = folder.file("log")});
  tracer.open(0, 2);
  tracer.record(barrier(1));
  TraceEvent event = barrier(2);
  event.failed = true;
  event.error = "rank 1 did not arrive at \"barrier\"";
  tracer.record(event);
  const std::vector<std::string> lines = lines_of(text_of(tracer.path()));
  REQUIRE(lines.size() == 3);
  CHECK(lines[1] == barrier_line(1));
  CHECK(lines[2].ends_with(R"(,"error":"rank 1 did not arrive at \"barrier\""})"));
}

TEST_CASE("each line at once, if that is asked for") {
  const Folder folder;
  JsonTracer tracer(JsonTracerOptions{.prefix = folder.file("log"), .flush_every_line = true});
  tracer.open(0, 1);
  for (std::uint32_t i = 1; i <= 3; ++i) {
    tracer.record(barrier(i));
    CHECK(lines_of(text_of(tracer.path())).size() == 1 + i);
  }
}

TEST_CASE("a log that is there is left alone") {
  const Folder folder;
  const JsonTracer first(JsonTracerOptions{.prefix = folder.file("log")});
  JsonTracer tracers[] = {first, first, first};
  for (JsonTracer& tracer : tracers) tracer.open(0, 1);
  CHECK(first.path().empty());
  CHECK(tracers[0].path() == folder.file("log.rank0.jsonl"));
  CHECK(tracers[1].path() == folder.file("log.rank0.2.jsonl"));
  CHECK(tracers[2].path() == folder.file("log.rank0.3.jsonl"));
  tracers[1].record(barrier(7));
  tracers[1].flush();
  CHECK(lines_of(text_of(tracers[0].path())).size() == 1);
  CHECK(lines_of(text_of(tracers[1].path())).size() == 2);
  // A copy starts without a log, and what is moved keeps its own.
  JsonTracer copy = tracers[1];
  copy.record(barrier(8));
  CHECK(copy.path().empty());
  const JsonTracer moved = std::move(tracers[2]);
  CHECK(moved.path() == folder.file("log.rank0.3.jsonl"));
}

TEST_CASE("without a prefix nothing is written") {
  const Variable no_prefix("ALLFOLD_COMMS_LOG", "");
  JsonTracer tracer;
  tracer.open(0, 1);
  tracer.record(barrier(1));
  tracer.flush();
  CHECK(tracer.path().empty());
  CHECK(tracer.lost_lines() == 0);
}

TEST_CASE("the environment names the prefix and says when lines are written") {
  const Variable prefix("ALLFOLD_COMMS_LOG", "/tmp/some/where");
  CHECK(JsonTracer().options().prefix == "/tmp/some/where");
  CHECK_FALSE(JsonTracer().options().flush_every_line);
  {
    const Variable flush("ALLFOLD_COMMS_LOG_FLUSH", "line");
    CHECK(JsonTracer().options().flush_every_line);
    // They go before what the program says.
    const JsonTracerOptions both = JsonTracer(JsonTracerOptions{.prefix = "x", .buffer_bytes = 7}).options();
    CHECK(both.prefix == "/tmp/some/where");
    CHECK(both.flush_every_line);
    CHECK(both.buffer_bytes == 7);
  }
  {
    const Variable flush("ALLFOLD_COMMS_LOG_FLUSH", "lines");
    CHECK_THROWS_WITH_AS(JsonTracer(),
                         "allfold: environment: ALLFOLD_COMMS_LOG_FLUSH is \"lines\"; expected buffer or line",
                         allfold::UsageError);
  }
  const Variable folder("ALLFOLD_COMMS_LOG", "/tmp/");
  CHECK_THROWS_WITH_AS(JsonTracer(),
                       "allfold: environment: ALLFOLD_COMMS_LOG is \"/tmp/\", a directory; expected the beginning of a "
                       "file's name; try \"/tmp/comms\"",
                       allfold::UsageError);
}

TEST_CASE("a log that cannot be created is one clear error") {
  const Folder folder;
  JsonTracer nowhere(JsonTracerOptions{.prefix = folder.file("missing/log")});
  const std::string expected = "allfold: rank 1/2: comms log: could not create " +
                               folder.file("missing/log.rank1.jsonl") +
                               "; expected a directory that can be written; try another prefix: No such file or "
                               "directory (errno 2)";
  CHECK_THROWS_WITH_AS(nowhere.open(1, 2), expected.c_str(), allfold::SystemError);
  nowhere.record(barrier(1));
  CHECK(nowhere.path().empty());
}

TEST_CASE("nor is one started on a full disk, and nothing is left of it") {
  const Folder folder;
  JsonTracer tracer(JsonTracerOptions{.prefix = folder.file("log")});
  std::string message;
  {
    const FileSizeLimit limit(10);
    try {
      tracer.open(0, 1);
    } catch (const allfold::SystemError& error) {
      message = error.what();
    }
  }
  CHECK(message == "allfold: rank 0/1: comms log: could not write " + folder.file("log.rank0.jsonl") +
                       "; expected room for it; try another prefix: File too large (errno 27)");
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("lines that find no room are counted, and the file goes on with a whole line") {
  const Folder folder;
  std::string path;
  {
    JsonTracer tracer(JsonTracerOptions{.prefix = folder.file("log"), .flush_every_line = true});
    tracer.open(0, 1);
    path = tracer.path();
    tracer.record(barrier(1));
    std::uint64_t lost = 0;
    {
      const FileSizeLimit limit(text_of(path).size() + barrier_line(2).size() + 21);
      for (std::uint32_t i = 2; i <= 5; ++i) tracer.record(barrier(i));
      lost = tracer.lost_lines();
    }
    CHECK(lost == 3);
    tracer.record(barrier(6));
  }
  const std::vector<std::string> lines = lines_of(text_of(path));
  REQUIRE(lines.size() == 5);
  CHECK(lines[1] == barrier_line(1));
  CHECK(lines[2] == barrier_line(2));
  CHECK(lines[3] == barrier_line(6));
  CHECK(lines[4].ends_with(R"("lost_lines":3})"));
}

TEST_CASE("of a buffer that does not fit, the lines that do are kept") {
  const Folder folder;
  std::string path;
  std::uint64_t lost = 0;
  {
    JsonTracer tracer(JsonTracerOptions{.prefix = folder.file("log")});
    tracer.open(0, 1);
    path = tracer.path();
    const FileSizeLimit limit(text_of(path).size() + 2 * barrier_line(1).size() + 30);
    for (std::uint32_t i = 1; i <= 5; ++i) tracer.record(barrier(i));
    tracer.flush();
    lost = tracer.lost_lines();
  }
  CHECK(lost == 3);
  const std::string text = text_of(path);
  CHECK(text.ends_with("\n"));
  const std::vector<std::string> lines = lines_of(text);
  REQUIRE(lines.size() == 4);
  CHECK(lines[2] == barrier_line(2));
  CHECK(lines[3].ends_with(R"("lost_lines":3})"));
}

TEST_CASE("a device without room takes nothing, and harms nobody") {
  allfold::UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  REQUIRE(full.get() >= 0);
  JsonFile file(std::move(full), 30);
  file.add("twenty bytes of line\n");
  CHECK(file.lost() == 0);
  file.add("twenty bytes of line\n");
  CHECK(file.lost() == 2);
  file.add("x\n");
  CHECK(file.flush() == ENOSPC);
  CHECK(file.lost() == 3);
  CHECK(file.flush() == 0);
}

TEST_CASE("threads share a tracer") {
  const Folder folder;
  constexpr std::uint32_t each = 500;
  std::string path;
  {
    JsonTracer tracer(JsonTracerOptions{.prefix = folder.file("log"), .buffer_bytes = 300});
    tracer.open(0, 1);
    path = tracer.path();
    std::vector<std::thread> threads;
    for (std::uint32_t t = 0; t < 4; ++t) {
      threads.emplace_back([&tracer, t] {
        for (std::uint32_t i = 0; i < each; ++i) {
          tracer.record(barrier(t * each + i));
          if (i % 100 == 0) tracer.flush();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  const std::vector<std::string> lines = lines_of(text_of(path));
  REQUIRE(lines.size() == 4 * each + 2);
  std::vector<int> seen(4 * each);
  for (std::size_t i = 1; i + 1 < lines.size(); ++i) {
    const std::size_t digits = lines[i].find("\"sequence\":") + 11;
    const auto sequence = static_cast<std::uint32_t>(std::stoul(lines[i].substr(digits)));
    REQUIRE(sequence < seen.size());
    CHECK(lines[i] == barrier_line(sequence));
    ++seen[sequence];
  }
  for (const int times : seen) CHECK(times == 1);
}
