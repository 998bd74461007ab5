// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <iterator>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <unistd.h>

#include <allfold/select/tuned.hpp>

namespace {

using allfold::Algorithm;
using allfold::AlgorithmSet;
using allfold::SelectionQuery;
using allfold::SystemError;
using allfold::TopologyKind;
using allfold::TunedSelector;
using allfold::TuningRow;
using allfold::unlimited_bytes;
using allfold::UsageError;

AlgorithmSet without(Algorithm algorithm) {
  return {static_cast<std::uint8_t>(AlgorithmSet::all().bits & ~AlgorithmSet::of(algorithm).bits)};
}

const std::vector<TuningRow> sample = {
    {2, true, 4096, Algorithm::one_shot_packet},
    {2, true, 65536, Algorithm::two_shot_packet},
    {2, true, unlimited_bytes, Algorithm::two_shot},
    {2, false, 1024, Algorithm::one_shot},
    {2, false, 8192, Algorithm::none},
    {6, true, 512, Algorithm::one_shot},
    {6, true, 32768, Algorithm::hybrid_cube_mesh},
    {6, true, 1 << 20, Algorithm::two_shot},
};

/// What from_text says of a text, after "allfold: tuning table: "; empty if it takes it.
std::string refusal(const std::string& text) {
  try {
    TunedSelector::from_text(text, "t");
  } catch (const UsageError& error) {
    const std::string what = error.what();
    const std::string head = "allfold: tuning table: ";
    REQUIRE(what.substr(0, head.size()) == head);
    return what.substr(head.size());
  }
  return "";
}

/// A table with these lines between the first and a last line that fits them.
std::string table(const std::string& lines, std::size_t rows) {
  const std::string above = "allfold tuning table 1\n" + lines;
  return above + allfold::detail::tuning_table_end(above, rows) + "\n";
}

/// A file that is gone with the test.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& text) {
    const int fd = mkstemp(path_);
    REQUIRE(fd >= 0);
    REQUIRE(write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    close(fd);
  }
  ~ScratchFile() { unlink(path_); }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  const char* path() const { return path_; }

 private:
  char path_[40] = "/tmp/allfold-tuned-selector-XXXXXX";
};

TEST_CASE("TunedSelector's built-in tables are those of bench/results") {
  std::string results = __FILE__;
  results.resize(results.rfind("tests/unit"));
  results += "bench/results/";
  const TunedSelector on_cpus = TunedSelector::from_file(results + "host-tuning.txt");
  const TunedSelector on_gpus = TunedSelector::from_file(results + "h200-tuning.txt");
  CHECK(std::ranges::equal(on_cpus.rows(), allfold::default_tuning_table(false)));
  CHECK(std::ranges::equal(on_gpus.rows(), allfold::default_tuning_table(true)));
}

TEST_CASE("TunedSelector's built-in table: packets while small, two motions when large, at every world size") {
  const TunedSelector selector;
  for (int world_size = 2; world_size <= 8; ++world_size) {
    CAPTURE(world_size);
    for (const bool symmetric : {true, false}) {
      const auto at = [&](std::size_t bytes) {
        return selector.select({.bytes = bytes, .world_size = world_size, .symmetric = symmetric});
      };
      CHECK(at(0) == Algorithm::one_shot_packet);
      CHECK(at(256) == Algorithm::one_shot_packet);
      for (const std::size_t bytes : {std::size_t{1} << 20, unlimited_bytes}) {
        CHECK((at(bytes) == Algorithm::two_shot || at(bytes) == Algorithm::two_shot_packet));
      }
    }
  }
}

TEST_CASE(
    "TunedSelector: on GPUs, what is not of whole vectors goes by the rows of private memory, where packets are "
    "named") {
  const TunedSelector selector;
  for (const int world_size : {2, 4}) {
    for (const bool packets : {true, false}) {
      const std::size_t bytes = std::size_t{packets ? 4U : 64U} << 20;
      SelectionQuery query{.bytes = bytes, .world_size = world_size, .device = true};
      const Algorithm of_private = selector.select(query);
      query.symmetric = true;
      const Algorithm of_vectors = selector.select(query);
      query.vectors = false;
      CHECK(selector.select(query) == (packets ? of_private : of_vectors));
      query.aligned = false;
      CHECK(selector.select(query) == of_private);
      if (packets) CHECK(of_private != of_vectors);
      query.device = false;
      CHECK_MESSAGE(selector.select(query) == Algorithm::two_shot, "CPU ranks ask for no vectors");
    }
  }
}

TEST_CASE("TunedSelector's built-in table on other topologies") {
  const TunedSelector selector;
  SelectionQuery query{.bytes = 1024, .world_size = 8, .topology = TopologyKind::hybrid_cube_mesh};
  for (int kind = 0; kind < 4; ++kind) {
    query.symmetric = (kind & 1) != 0;
    query.device = (kind & 2) != 0;
    query.bytes = 1024;
    CHECK(selector.select(query) == Algorithm::hybrid_cube_mesh);
    query.bytes = 256 << 10;
    CHECK(selector.select(query) == Algorithm::hybrid_cube_mesh);
    query.bytes += 1;
    CHECK(selector.select(query) == Algorithm::none);
  }
  query = {.bytes = 1024, .world_size = 8, .topology = TopologyKind::unknown};
  CHECK(selector.select(query) == Algorithm::none);
}

TEST_CASE("TunedSelector takes the row that a size falls in, bounds included") {
  const TunedSelector selector(sample);
  const auto at = [&](bool symmetric, std::size_t bytes) {
    return selector.select({.bytes = bytes, .world_size = 2, .symmetric = symmetric});
  };
  CHECK(at(true, 4096) == Algorithm::one_shot_packet);
  CHECK(at(true, 4097) == Algorithm::two_shot_packet);
  CHECK(at(true, 65537) == Algorithm::two_shot);
  CHECK(at(false, 1024) == Algorithm::one_shot);
  CHECK(at(false, 1025) == Algorithm::none);
  CHECK_MESSAGE(at(false, 1 << 30) == Algorithm::none, "beyond the last row");
}

TEST_CASE("TunedSelector takes the nearest world size's rows, the larger of two") {
  const TunedSelector selector(sample);
  const auto at = [&](int world_size, bool symmetric) {
    return selector.select({.bytes = 600, .world_size = world_size, .symmetric = symmetric});
  };
  CHECK(at(1, true) == Algorithm::one_shot_packet);
  CHECK(at(3, true) == Algorithm::one_shot_packet);
  CHECK(at(4, true) == Algorithm::two_shot);
  CHECK(at(5, true) == Algorithm::two_shot);
  CHECK(at(100, true) == Algorithm::two_shot);
  CHECK_MESSAGE(at(100, false) == Algorithm::one_shot, "world size 6 has no rows for private buffers");
  const TunedSelector symmetric_only({{4, true, unlimited_bytes, Algorithm::two_shot}});
  CHECK(symmetric_only.select({.bytes = 16, .world_size = 4, .symmetric = false}) == Algorithm::none);
}

TEST_CASE("TunedSelector walks on from what cannot run to the next row that can") {
  const TunedSelector selector(sample);
  SelectionQuery query{.bytes = 100, .world_size = 2, .symmetric = true};
  query.possible = without(Algorithm::one_shot_packet);
  CHECK(selector.select(query) == Algorithm::two_shot_packet);
  query.possible = query.possible & without(Algorithm::two_shot_packet);
  CHECK(selector.select(query) == Algorithm::two_shot);
  query.possible = query.possible & without(Algorithm::two_shot);
  CHECK(selector.select(query) == Algorithm::none);
}

TEST_CASE("TunedSelector never chooses what cannot run, nor what does not suit the topology") {
  for (const TunedSelector& selector : {TunedSelector(), TunedSelector(sample)}) {
    for (const TopologyKind topology :
         {TopologyKind::fully_connected, TopologyKind::hybrid_cube_mesh, TopologyKind::unknown}) {
      for (unsigned bits = 0; bits < 64; ++bits) {
        for (int world_size = 1; world_size <= 9; ++world_size) {
          for (const std::size_t bytes : {std::size_t{16}, std::size_t{4096}, std::size_t{1} << 30}) {
            for (const bool symmetric : {true, false}) {
              SelectionQuery query{
                  .bytes = bytes, .world_size = world_size, .topology = topology, .symmetric = symmetric};
              query.possible.bits = static_cast<std::uint8_t>(bits);
              const Algorithm choice = selector.select(query);
              if (choice == Algorithm::none) continue;
              REQUIRE(query.possible.contains(choice));
              REQUIRE((choice == Algorithm::hybrid_cube_mesh) == (topology == TopologyKind::hybrid_cube_mesh));
              REQUIRE(topology != TopologyKind::unknown);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("TunedSelector can be moved from and asked again") {
  TunedSelector selector(sample);
  const TunedSelector taken = std::move(selector);  // NOLINT(performance-move-const-arg): a move copies
  CHECK(taken == TunedSelector(sample));
  CHECK(selector == taken);
  CHECK(selector.select({.bytes = 600, .world_size = 6, .symmetric = true}) == Algorithm::two_shot);
  selector = TunedSelector();
  CHECK(selector.select({.bytes = 16, .world_size = 6, .symmetric = true}) == Algorithm::one_shot_packet);
}

TEST_CASE("a tuning table survives the way through text and through a file") {
  const TunedSelector selector(sample);
  const std::string text = selector.to_text("two lines\nof comment");
  CHECK(text.substr(0, 48) == "allfold tuning table 1\n# two lines\n# of comment\n");
  CHECK(TunedSelector::from_text(text, "t") == selector);
  CHECK(TunedSelector::from_text(text, "t").rows().size() == sample.size());
  CHECK_FALSE(TunedSelector::from_text(text, "t") == TunedSelector());
  const TunedSelector of_cpus = TunedSelector::from_text(TunedSelector().to_text(), "t");
  CHECK(std::ranges::equal(of_cpus.rows(), TunedSelector().rows()));
  CHECK_MESSAGE(!(of_cpus == TunedSelector()), "on GPUs they choose differently");
  const ScratchFile file(text);
  CHECK(TunedSelector::from_file(file.path()) == selector);
}

TEST_CASE("random tuning tables survive the way through text") {
  const unsigned seed = std::random_device{}();
  MESSAGE("seed ", seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 50; ++i) {
    std::vector<TuningRow> rows;
    for (int world_size = 1; world_size < 9; world_size += 1 + static_cast<int>(random() % 3)) {
      for (const bool symmetric : {true, false}) {
        std::size_t bytes = random() % 100;
        for (auto n = 1 + random() % 4; n > 0; --n) {
          rows.push_back(
              {world_size, symmetric, bytes, allfold::all_algorithms[random() % std::size(allfold::all_algorithms)]});
          bytes += 1 + (random() >> (1 + random() % 60)) / 8;
        }
      }
    }
    const TunedSelector selector(rows);
    REQUIRE(TunedSelector::from_text(selector.to_text(), "t") == selector);
  }
}

TEST_CASE("every flipped byte of a tuning table is found, or changes nothing") {
  const TunedSelector selector(sample);
  const std::string text = selector.to_text("measured somewhere");
  for (std::size_t at = 0; at < text.size(); ++at) {
    for (const unsigned flip : {1U, 2U, 4U, 8U, 16U, 32U, 64U, 128U, 255U}) {
      std::string damaged = text;
      damaged[at] = static_cast<char>(static_cast<unsigned char>(damaged[at]) ^ flip);
      bool sound = false;
      try {
        sound = TunedSelector::from_text(damaged, "t") == selector;
      } catch (const UsageError&) {
        sound = true;
      }
      REQUIRE_MESSAGE(sound, "byte ", at, " xor ", flip);
    }
  }
}

TEST_CASE("a tuning table that was cut off, or grew, is refused") {
  const std::string text = TunedSelector(sample).to_text();
  for (std::size_t size = 0; size < text.size(); ++size) {
    REQUIRE_MESSAGE(refusal(text.substr(0, size)) != "", "cut to ", size);
  }
  CHECK(refusal(text) == "");
  CHECK(refusal(text + "\n") == "t line 10: expected nothing after the last line");
  CHECK(refusal(text + text) == "t line 10: expected nothing after the last line");
}

TEST_CASE("a tuning table that is wrong is refused with its line") {
  CHECK(refusal("") == "t line 1: this is no tuning table; expected a first line \"allfold tuning table 1\"");
  CHECK(refusal("{\"version\": 1}\n") ==
        "t line 1: this is no tuning table; expected a first line \"allfold tuning table 1\"");
  CHECK(refusal("allfold tuning table 2\nend\n") ==
        "t line 1: the table is of format \"2\", expected 1; try a tuning run with this version of allfold");
  CHECK(refusal(table("", 0)) == "t line 2: the table has no rows; try another tuning run");
  CHECK(refusal(table("# fine\n2 symmetric 16 ring\n", 1)) ==
        "t line 3: expected an algorithm such as two_shot, got \"ring\"");
  CHECK(refusal(table("2 symmetric 16 two_shot \n", 1)) ==
        "t line 2: expected an algorithm such as two_shot, got \"two_shot \"");
  CHECK(refusal(table("2 shared 16 two_shot\n", 1)) == "t line 2: expected symmetric or private, got \"shared\"");
  CHECK(refusal(table("2 private 1k two_shot\n", 1)) ==
        "t line 2: expected a number of bytes or \"unlimited\", got \"1k\"");
  CHECK(refusal(table("2 private 18446744073709551615 two_shot\n", 1)) ==
        "t line 2: expected a number of bytes or \"unlimited\", got \"18446744073709551615\"");
  for (const char* line : {"two private 16 two_shot", "0 private 16 two_shot", "-2 private 16 two_shot",
                           "02 private 16 two_shot", " 2 private 16 two_shot", ""}) {
    CHECK(refusal(table(line + std::string("\n"), 1)) ==
          "t line 2: expected a world size, \"symmetric\" or \"private\", bytes and an algorithm, got \"" +
              std::string(line) + "\"");
  }
  const std::string order =
      ": the rows are out of order; expected ascending world size, symmetric before private, ascending bytes";
  CHECK(refusal(table("2 private 16 two_shot\n2 private 16 two_shot\n", 2)) == "t line 3" + order);
  CHECK(refusal(table("2 private 16 two_shot\n2 symmetric 32 two_shot\n", 2)) == "t line 3" + order);
  CHECK(refusal(table("3 private 16 two_shot\n2 private 32 two_shot\n", 2)) == "t line 3" + order);
  CHECK(refusal("allfold tuning table 1\n2 private 16 two_shot\nend 1 rows 0\n").substr(0, 43) ==
        "t line 3: the table was changed or damaged;");
  CHECK(refusal("allfold tuning table 1\n2 private 16 two_shot\n") ==
        "t line 2: the table ends early; expected a last line \"end ..\"; try another tuning run");
}

TEST_CASE("rows that are no table are refused") {
  CHECK_THROWS_WITH_AS(TunedSelector(std::vector<TuningRow>{}),
                       "allfold: tuning table: expected at least one row, got none", UsageError);
  CHECK_THROWS_WITH_AS(TunedSelector({{0, true, 16, Algorithm::two_shot}}),
                       "allfold: tuning table: row 0 is of world size 0; expected 1 or more", UsageError);
  CHECK_THROWS_WITH_AS(TunedSelector({{2, true, 16, Algorithm::two_shot}, {2, true, 8, Algorithm::two_shot}}),
                       "allfold: tuning table: row 1 is out of order; expected ascending world size, symmetric before "
                       "private, ascending bytes",
                       UsageError);
}

TEST_CASE("a file that is missing, a directory or far too large is refused") {
  CHECK_THROWS_WITH_AS(TunedSelector::from_file("/nonexistent/table.txt"),
                       "allfold: tuning table: cannot open /nonexistent/table.txt: No such file or directory (errno 2)",
                       SystemError);
  CHECK_THROWS_AS(TunedSelector::from_file("/tmp"), SystemError);
  CHECK_THROWS_AS(TunedSelector::from_file("/dev/zero"), UsageError);
  const ScratchFile empty("");
  CHECK_THROWS_AS(TunedSelector::from_file(empty.path()), UsageError);
}

}  // namespace
