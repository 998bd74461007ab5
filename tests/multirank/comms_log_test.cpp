// SPDX-License-Identifier: Apache-2.0
// A communicator with a JsonTracer: every call is in the log, with its numbers.
#include <csignal>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/allfold.hpp>
#include <support/folder.hpp>
#include <support/ranks.hpp>

using allfold::concat;
using allfold::JsonTracer;
using allfold::JsonTracerOptions;
using allfold_test::Folder;
using allfold_test::lines_of;
using allfold_test::over_ranks;
using allfold_test::text_of;
using Comm = allfold::Communicator<JsonTracer>;

namespace {

/// The value of a member in a line of the log, as it is written; empty if there is none.
std::string member(const std::string& line, const std::string& key) {
  const std::size_t at = line.find("\"" + key + "\":");
  if (at == std::string::npos) return "";
  const std::size_t from = at + key.size() + 3;
  return line.substr(from, line.find_first_of(",}", from) - from);
}

/// What every line between a log's first and its last says of its call, but for the times.
std::string call(const std::string& line) {
  return concat({member(line, "sequence"), " ", member(line, "channel"), " ", member(line, "operation"), " ",
                 member(line, "type"), " ", member(line, "reduction"), " ", member(line, "count"), " ",
                 member(line, "in_bytes"), " ", member(line, "out_bytes"), " ", member(line, "algorithm")});
}

double number(const std::string& line, const std::string& key) { return std::stod(member(line, key)); }

/// Checks one line for each of `calls`, with times that follow one another; `ended`: and the last line.
void expect_log(const std::string& text, int rank, int world_size, const std::vector<std::string>& calls, bool ended) {
  EXPECT(text.ends_with("\n"));
  const std::vector<std::string> lines = lines_of(text);
  EXPECT(lines.size() == 1 + calls.size() + (ended ? 1 : 0));
  EXPECT(member(lines[0], "rank") == concat({rank}));
  EXPECT(member(lines[0], "world_size") == concat({world_size}));
  double before_us = number(lines[0], "clock_us");
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const std::string& line = lines[1 + i];
    EXPECT(call(line) == calls[i]);
    EXPECT(number(line, "begin_us") >= before_us);
    EXPECT(number(line, "end_us") >= number(line, "begin_us"));
    before_us = number(line, "end_us");
  }
  if (!ended) return;
  EXPECT(number(lines.back(), "clock_us") >= before_us);
  EXPECT(member(lines.back(), "lost_lines") == "0");
}

}  // namespace

TEST_CASE("every call of every rank is in its log") {
  for (const int world_size : allfold_test::every_world_size) {
    const Folder folder;
    int runs = 0;
    const auto body = [&](const allfold::Environment& environment) {
      const std::string prefix = folder.file(concat({"run", runs}));
      std::string path;
      {
        const JsonTracer tracer(JsonTracerOptions{.prefix = prefix});
        auto comm = Comm::create(environment, tracer, allfold::Options{.channels = 2});
        path = comm.tracer().path();
        EXPECT(path == concat({prefix, ".rank", environment.rank, ".jsonl"}));
        std::vector<double> data(100);
        comm.all_reduce(data, allfold::max, {.algorithm = allfold::Algorithm::two_shot});
        comm.barrier({.channel = 1});
        std::vector<int> none;
        comm.all_reduce(none, allfold::sum, {.algorithm = allfold::Algorithm::none});
        EXPECT_THROWS_AS(comm.barrier({.channel = 2}), allfold::UsageError);  // refused, so it is no call
        comm.barrier({environment.rank});
      }
      expect_log(text_of(path), environment.rank, world_size,
                 {"1 0 \"all_reduce\" \"double\" \"max\" 100 800 800 \"two_shot\"", "1 1 \"barrier\"   0 0 0 ",
                  "2 0 \"all_reduce\" \"int32\" \"sum\" 0 0 0 \"none\"", "3 0 \"barrier of a group\"   0 0 0 "},
                 true);
    };
    allfold_test::over_processes({world_size}, body);
    ++runs;
    allfold_test::over_threads({world_size}, body);
  }
}

TEST_CASE("a communicator that is created again, or moved, has its own log") {
  const Folder folder;
  allfold_test::over_threads({2}, [&](const allfold::Environment& environment) {
    const JsonTracer tracer(JsonTracerOptions{.prefix = folder.file("log")});
    auto first = Comm::create(environment, tracer);
    auto second = Comm::create(environment, tracer);
    second.barrier();
    const std::string paths[] = {first.tracer().path(), second.tracer().path()};
    first = std::move(second);
    expect_log(text_of(paths[0]), environment.rank, 2, {}, true);
    first.barrier();
    first.tracer().flush();
    expect_log(text_of(paths[1]), environment.rank, 2, {"1 0 \"barrier\"   0 0 0 ", "2 0 \"barrier\"   0 0 0 "}, false);
    EXPECT(paths[1] == folder.file(concat({"log.rank", environment.rank, ".2.jsonl"})));
    first.barrier();
  });
}

TEST_CASE("a call that fails is in the log at once, with its error") {
  const Folder folder;
  // Of two ranks both have begun when one sees the other's call; a third could find that the communicator has ended.
  over_ranks({2}, [&](const allfold::Environment& environment) {
    const JsonTracer tracer(JsonTracerOptions{.prefix = folder.file("log")});
    auto comm = Comm::create(environment, tracer);
    comm.barrier();
    std::vector<float> data(10);
    std::string said;
    try {
      if (environment.rank == 1) {
        comm.all_reduce(data, allfold::sum);
      } else {
        comm.barrier();
      }
    } catch (const allfold::MismatchError& error) {
      said = error.what();
    }
    EXPECT(!said.empty());
    const std::vector<std::string> lines = lines_of(text_of(comm.tracer().path()));
    EXPECT(lines.size() == 3);
    EXPECT(member(lines[1], "error").empty());
    EXPECT(member(lines[2], "sequence") == "2");
    EXPECT(lines[2].ends_with(concat({",\"error\":\"", said, "\"}"})));
  });
}

TEST_CASE("a rank that is killed leaves whole lines, and the others say whom they missed") {
  for (const bool every_line : {true, false}) {
    CAPTURE(every_line);
    const Folder folder;
    const auto outcomes = allfold::launch_outcomes(3, [&](const allfold::Environment& environment) {
      auto comm = Comm::create(
          environment, JsonTracer(JsonTracerOptions{
                           .prefix = folder.file("log"), .flush_every_line = every_line, .buffer_bytes = 1000}));
      for (int i = 0; i < 50; ++i) comm.barrier();
      if (environment.rank == 1) ::raise(SIGKILL);
      EXPECT_THROWS_AS(comm.barrier(), allfold::PeerError);
    });
    CHECK(outcomes[1].signal == SIGKILL);
    for (const int rank : {0, 1, 2}) {
      CAPTURE(rank);
      if (rank != 1) CHECK(outcomes[static_cast<std::size_t>(rank)].error == "");
      const std::string text = text_of(folder.file(concat({"log.rank", rank, ".jsonl"})));
      CHECK(text.ends_with("\n"));
      const std::vector<std::string> lines = lines_of(text);
      if (rank == 1) {
        CHECK(every_line == (lines.size() == 51));
        CHECK(lines.size() > 25);
        CHECK(member(lines.back(), "sequence") == concat({lines.size() - 1}));
      } else {
        REQUIRE(lines.size() == 53);
        CHECK(lines[51].find("\"error\":\"allfold: rank") != std::string::npos);
        CHECK(lines[51].find("rank 1") != std::string::npos);
        CHECK(member(lines[52], "kind") == "\"end\"");
      }
    }
  }
}

TEST_CASE("a log that one rank cannot create is an error of create on every rank") {
  const Folder folder;
  over_ranks({2}, [&](const allfold::Environment& environment) {
    const std::string name = environment.rank == 1 ? "missing/log" : "log";
    const auto attempt = Comm::try_create(environment, JsonTracer(JsonTracerOptions{.prefix = folder.file(name)}));
    EXPECT(!attempt);
    allfold_test::expect_contains(attempt.reason(), {"missing/log.rank1.jsonl", "No such file or directory"});
  });
}
