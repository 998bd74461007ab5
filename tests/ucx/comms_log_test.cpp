// SPDX-License-Identifier: Apache-2.0
// The comms log of a communicator over messages: sizes, splits, roots, peers, tags, waits and errors.
#include <chrono>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/ucx.hpp>

#include <support/folder.hpp>
#include <support/over_ucx.hpp>
#include <support/ranks.hpp>

using namespace std::chrono_literals;
using allfold_test::expect_contains;
using allfold_test::Folder;
using allfold_test::lines_of;
using allfold_test::text_of;

namespace {

using Counts = std::vector<std::size_t>;

/// The one line of the log that has all `parts`.
std::string line_with(const std::vector<std::string>& lines, std::initializer_list<const char*> parts) {
  std::string found;
  int count = 0;
  for (const std::string& line : lines) {
    bool all = true;
    for (const char* part : parts) all = all && line.find(part) != line.npos;
    if (!all) continue;
    found = line;
    ++count;
  }
  if (count != 1) {
    std::string text;
    for (const std::string& line : lines) text += line + "\n";
    allfold_test::throw_failure(allfold::concat({count, " lines have ", *parts.begin(), " in\n", text}), __FILE__,
                                __LINE__);
  }
  return found;
}

template <class Transport>
void every_operation_is_logged(const allfold::Environment& environment, const std::string& prefix) {
  using Comm = allfold::Communicator<Transport, allfold::JsonTracer>;
  const allfold::JsonTracer tracer(allfold::JsonTracerOptions{.prefix = prefix});
  std::string path;
  const int me = environment.rank;
  {
    auto comm = Comm::create(environment, tracer);
    path = comm.tracer().path();
    std::vector<float> data(10), all(5);
    comm.all_reduce(data, allfold::sum);
    comm.broadcast(data, {.root = 1});
    const Counts counts{2, 3};
    comm.all_gather_v(std::vector<float>(counts[static_cast<std::size_t>(me)]), all, counts);
    comm.all_to_all_v(std::vector<int>(3), Counts{1, 2}, std::vector<int>(me == 0 ? 2 : 4),
                      me == 0 ? Counts{1, 1} : Counts{2, 2});
    if (me == 0) comm.send(data, 1, {.tag = 77});
    if (me == 1) comm.receive(data, allfold::any_source, {.tag = 77});
    if (me == 1) std::this_thread::sleep_for(50ms);
    comm.all_reduce(data, allfold::max, {.async = true}).wait();
    const auto wait_alone = [&] { comm.barrier({.timeout = 200ms}); };
    if (me == 0) EXPECT_THROWS_AS(wait_alone(), allfold::TimeoutError);
    if (me == 1) std::this_thread::sleep_for(700ms);
  }
  const std::vector<std::string> lines = lines_of(text_of(path));
  expect_contains(line_with(lines, {"\"sequence\":2,", "\"operation\":\"all_reduce\"", "\"kind\":\"operation\""}),
                  {"\"type\":\"float\"", "\"reduction\":\"sum\"", "\"count\":10", "\"in_bytes\":40", "\"out_bytes\":40",
                   "\"algorithm\":\"gathered\"", "\"channel\":0"});
  expect_contains(line_with(lines, {"broadcast\"", "\"kind\":\"operation\""}), {"\"root\":1"});
  expect_contains(line_with(lines, {"all_gather_v\"", "\"kind\":\"operation\""}), {"\"out_splits\":[2,3]"});
  expect_contains(line_with(lines, {"all_to_all_v\"", "\"kind\":\"operation\""}),
                  {"\"in_splits\":[1,2]", me == 0 ? "\"out_splits\":[1,1]" : "\"out_splits\":[2,2]"});
  expect_contains(line_with(lines, {me == 0 ? "\"send\"" : "\"receive\"", "\"kind\":\"operation\""}),
                  {"\"tag\":77", "\"channel\":-1", "\"sequence\":1"});
  if (me == 0) {
    expect_contains(line_with(lines, {"\"send\"", "\"kind\":\"operation\""}), {"\"peer\":1"});
    line_with(lines, {"\"kind\":\"wait\"", "\"all_reduce\"", "\"sequence\":6"});
  }
  if (me == 0) {
    expect_contains(line_with(lines, {"barrier\"", "\"error\":", "\"kind\":\"operation\""}), {"did not arrive"});
  }
}

}  // namespace

TEST_CASE("every operation over messages is in the comms log") {
  const Folder folder;
  allfold_test::take_ways("tcp");
  allfold_test::over_processes({2}, [&](const allfold::Environment& environment) {
    every_operation_is_logged<allfold::UcxTransport>(environment, folder.file("caller"));
  });
  allfold_test::over_processes({2}, [&](const allfold::Environment& environment) {
    every_operation_is_logged<allfold::UcxThreadTransport>(environment, folder.file("thread"));
  });
}
