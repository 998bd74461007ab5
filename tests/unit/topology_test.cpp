// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/topology/detect.hpp>
#include <allfold/topology/fixed.hpp>
#include <allfold/topology/overrides.hpp>
#include <allfold/topology/parse.hpp>

namespace {

using allfold::classify;
using allfold::find_hybrid_cube_mesh;
using allfold::FixedTopology;
using allfold::HybridCubeMesh;
using allfold::LinkMatrix;
using allfold::parse_link_matrix;
using allfold::TopologyKind;
using allfold::TopologyOverrides;
using allfold::UsageError;

static_assert(std::is_trivially_copyable_v<HybridCubeMesh> && sizeof(HybridCubeMesh) == 40);
static_assert(classify(allfold::fully_connected_links(8)) == TopologyKind::fully_connected);

struct Fixture {
  const char* name;
  int gpus;
  TopologyKind kind;
  int links;  // of the first pair
};

constexpr Fixture fixtures[] = {
    {"dgx1_v100", 8, TopologyKind::hybrid_cube_mesh, 1},
    {"dgx1_p100", 8, TopologyKind::hybrid_cube_mesh, 1},
    {"dgx1_v100_link_missing", 8, TopologyKind::unknown, 1},
    {"dgx2_v100", 8, TopologyKind::fully_connected, 6},
    {"hgx_a100_8", 8, TopologyKind::fully_connected, 12},
    {"hgx_h100_8", 8, TopologyKind::fully_connected, 18},
    {"hgx_h100_4", 4, TopologyKind::fully_connected, 6},
    {"hgx_h100_link_missing", 8, TopologyKind::unknown, 18},
    {"pcie_8", 8, TopologyKind::unknown, 0},
    {"pcie_2", 2, TopologyKind::unknown, 0},
    {"nvlink_bridge_2", 2, TopologyKind::fully_connected, 4},
    {"nvlink_bridges_4", 4, TopologyKind::unknown, 4},
};

std::string fixture_text(const std::string& name) {
  std::string path = __FILE__;
  path.resize(path.rfind("unit"));
  path += "fixtures/topology/" + name + ".txt";
  std::ifstream file(path);
  REQUIRE_MESSAGE(file.is_open(), path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

LinkMatrix load(const std::string& name, int gpus) { return parse_link_matrix(fixture_text(name), name, gpus); }

LinkMatrix permuted(const LinkMatrix& matrix, const std::vector<int>& to) {
  LinkMatrix out;
  out.world_size = matrix.world_size;
  for (int a = 0; a < matrix.world_size; ++a) {
    for (int b = 0; b < matrix.world_size; ++b) out.links[to[a]][to[b]] = matrix.links[a][b];
  }
  return out;
}

std::mt19937 seeded() {
  const unsigned seed = std::random_device{}();
  MESSAGE("seed ", seed);
  return std::mt19937(seed);
}

/// The definition, by trial of every split into quads.
bool is_hybrid_cube_mesh(const LinkMatrix& matrix) {
  if (matrix.world_size != 8) return false;
  for (unsigned split = 0; split < 256; ++split) {
    if (__builtin_popcount(split) != 4) continue;
    bool fits = true;
    for (int a = 0; a < 8; ++a) {
      int across = 0;
      for (int b = 0; b < 8; ++b) {
        if (a == b) continue;
        const bool same_quad = (split >> a & 1) == (split >> b & 1);
        const bool linked = matrix.connected(a, b);
        if (same_quad && !linked) fits = false;
        if (!same_quad && linked) ++across;
      }
      if (across != 1) fits = false;
    }
    if (fits) return true;
  }
  return false;
}

void check_mesh(const HybridCubeMesh& mesh, const LinkMatrix& matrix) {
  CHECK(mesh.quad[0] == 0);
  for (int a = 0; a < 8; ++a) {
    CHECK(std::is_sorted(std::begin(mesh.mates[a]), std::end(mesh.mates[a])));
    for (const auto mate : mesh.mates[a]) {
      CHECK(mesh.quad[mate] == mesh.quad[a]);
      CHECK(matrix.links[a][mate] != 0);
    }
    CHECK(mesh.quad[mesh.partner[a]] != mesh.quad[a]);
    CHECK(mesh.partner[mesh.partner[a]] == a);
    for (int b = 0; b < 8; ++b) {
      CHECK(mesh.neighbours(a, b) == (a != b && matrix.links[a][b] != 0));
      const int relay = mesh.relay(a, b);
      if (a == b || mesh.neighbours(a, b)) {
        CHECK(relay == -1);
      } else {
        CHECK(mesh.neighbours(a, relay));
        CHECK(mesh.neighbours(relay, b));
      }
    }
  }
}

TEST_CASE("classify knows machines by their published link matrices") {
  for (const Fixture& fixture : fixtures) {
    CAPTURE(fixture.name);
    const LinkMatrix matrix = load(fixture.name, fixture.gpus);
    CHECK(matrix.world_size == fixture.gpus);
    CHECK(int{matrix.links[0][1]} == fixture.links);
    CHECK(classify(matrix) == fixture.kind);
    CHECK(find_hybrid_cube_mesh(matrix).has_value() == (fixture.kind == TopologyKind::hybrid_cube_mesh));
  }
}

TEST_CASE("classify does not depend on the numbering of the ranks") {
  std::mt19937 random = seeded();
  for (const Fixture& fixture : fixtures) {
    CAPTURE(fixture.name);
    const LinkMatrix matrix = load(fixture.name, fixture.gpus);
    std::vector<int> to(static_cast<std::size_t>(fixture.gpus));
    std::iota(to.begin(), to.end(), 0);
    for (int i = 0; i < 200; ++i) {
      std::shuffle(to.begin(), to.end(), random);
      const LinkMatrix other = permuted(matrix, to);
      REQUIRE(classify(other) == fixture.kind);
      if (const auto mesh = find_hybrid_cube_mesh(other); mesh && i < 20) check_mesh(*mesh, other);
    }
  }
}

TEST_CASE("the table of DGX-1V names its quads, partners and relays") {
  const LinkMatrix matrix = load("dgx1_v100", 8);
  const auto mesh = find_hybrid_cube_mesh(matrix);
  REQUIRE(mesh.has_value());
  check_mesh(*mesh, matrix);
  for (int rank = 0; rank < 8; ++rank) {
    CHECK(int{mesh->quad[rank]} == rank / 4);
    CHECK(int{mesh->partner[rank]} == (rank + 4) % 8);
  }
  CHECK(std::vector<int>(mesh->mates[5], mesh->mates[5] + 3) == std::vector{4, 6, 7});
  CHECK(mesh->relay(0, 6) == 4);
  CHECK(mesh->relay(6, 0) == 2);
}

TEST_CASE("a hybrid cube mesh loses its kind with any one link, and with any one more") {
  const LinkMatrix matrix = load("dgx1_v100", 8);
  for (int a = 0; a < 8; ++a) {
    for (int b = 0; b < a; ++b) {
      LinkMatrix other = matrix;
      other.connect(a, b, matrix.links[a][b] != 0 ? 0 : 1);
      CAPTURE(a);
      CAPTURE(b);
      CHECK(classify(other) == TopologyKind::unknown);
    }
  }
}

TEST_CASE("classify agrees with the definition on random graphs near a hybrid cube mesh") {
  std::mt19937 random = seeded();
  const LinkMatrix mesh = load("dgx1_v100", 8);
  int found = 0;
  for (int i = 0; i < 3000; ++i) {
    // Swaps the ends of links, which keeps four at every rank.
    LinkMatrix matrix = mesh;
    for (unsigned swaps = random() % 4; swaps > 0; --swaps) {
      const int a = random() % 8, b = random() % 8, c = random() % 8, d = random() % 8;
      if (a == c || a == d || b == c || b == d || a == b || c == d) continue;
      if (matrix.links[a][b] == 0 || matrix.links[c][d] == 0 || matrix.links[a][c] != 0 || matrix.links[b][d] != 0) {
        continue;
      }
      matrix.connect(a, b, 0);
      matrix.connect(c, d, 0);
      matrix.connect(a, c);
      matrix.connect(b, d);
    }
    const bool expected = is_hybrid_cube_mesh(matrix);
    REQUIRE((classify(matrix) == TopologyKind::hybrid_cube_mesh) == expected);
    found += expected ? 1 : 0;
  }
  CHECK(found > 0);
  CHECK(found < 3000);
}

TEST_CASE("classify handles worlds of one and two ranks, and none") {
  LinkMatrix matrix;
  CHECK(classify(matrix) == TopologyKind::unknown);
  matrix.world_size = 1;
  CHECK(classify(matrix) == TopologyKind::fully_connected);
  matrix.world_size = 2;
  CHECK(classify(matrix) == TopologyKind::unknown);
  matrix.links[0][1] = 1;
  CHECK_MESSAGE(classify(matrix) == TopologyKind::unknown, "a link in one direction");
  matrix.links[1][0] = 1;
  CHECK(classify(matrix) == TopologyKind::fully_connected);
  matrix.world_size = 9;
  CHECK(classify(matrix) == TopologyKind::unknown);
}

std::string refusal(const std::string& text, int gpus = 0) {
  try {
    parse_link_matrix(text, "fixture", gpus);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("parse_link_matrix says which line it does not understand") {
  CHECK(refusal("") == "allfold: topology: fixture line 0: the text ends; expected the header GPU0 GPU1 ..");
  CHECK(refusal("# x\nhello\n") ==
        "allfold: topology: fixture line 2: expected the header GPU0 GPU1 .., got \"hello\"");
  CHECK(refusal(" GPU0 GPU1\nGPU0 X NV4\n") ==
        "allfold: topology: fixture line 2: the text ends early; expected 2 rows, got 1");
  CHECK(refusal(" GPU0 GPU1\nGPU0 X NV4\nGPU2 NV4 X\n") ==
        "allfold: topology: fixture line 3: expected the row GPU1, got GPU2");
  CHECK(refusal(" GPU0 GPU1\nGPU0 X NVX\nGPU1 NV4 X\n") ==
        "allfold: topology: fixture line 2: expected NV#, X, PIX, PXB, PHB, NODE or SYS, got \"NVX\"");
  CHECK(refusal(" GPU0 GPU1\nGPU0 X\nGPU1 NV4 X\n") == "allfold: topology: fixture line 2: expected 2 cells, got 1");
  CHECK(refusal(" GPU0 GPU1\nGPU0 X X\nGPU1 NV4 X\n") ==
        "allfold: topology: fixture line 2: expected X on the diagonal alone");
  CHECK(refusal(" GPU0 GPU1\nGPU0 X NV4\nGPU1 NV3 X\n") ==
        "allfold: topology: fixture: expected as many links from GPU1 to GPU0 as back, got 3 and 4");
  CHECK(refusal(" GPU0 GPU1\nGPU0 X NV4\nGPU1 NV4 X\n", 3) ==
        "allfold: topology: fixture line 1: cannot take 3 of 2 GPUs; expected 1 to 2");
  CHECK(refusal(fixture_text("dgx2_v100")) ==
        "allfold: topology: fixture line 3: cannot take 16 of 16 GPUs; expected 1 to 8");
  CHECK(refusal(" GPU0 GPU1\nGPU0 X NV4\nGPU1 NV4 X") == "");
}

TEST_CASE("FixedTopology is fully connected unless it is told otherwise") {
  const std::vector<allfold::Identity> ranks(8);
  FixedTopology all;
  for (std::size_t n = 1; n <= 8; ++n) {
    const LinkMatrix matrix = all.links(std::span(ranks).first(n));
    CHECK(matrix.world_size == static_cast<int>(n));
    CHECK(classify(matrix) == TopologyKind::fully_connected);
  }
  const LinkMatrix mesh = load("dgx1_v100", 8);
  CHECK(FixedTopology(mesh).links(ranks) == mesh);
}

TEST_CASE("FixedTopology refuses a matrix that does not fit") {
  const std::vector<allfold::Identity> ranks(9);
  const FixedTopology mesh(load("dgx1_v100", 8));
  CHECK_THROWS_WITH_AS(mesh.links(std::span(ranks).first(4)),
                       "allfold: topology: the link matrix of FixedTopology is of another world size; expected 8 "
                       "ranks, got 4; try FixedTopology() for ranks that are all linked",
                       UsageError);
  CHECK_THROWS_AS(FixedTopology().links(ranks), UsageError);
  LinkMatrix matrix = allfold::fully_connected_links(3);
  matrix.links[2][1] = 4;
  CHECK_THROWS_WITH_AS(FixedTopology{matrix},
                       "allfold: topology: the link matrix is not symmetric; expected as many links from rank 2 to "
                       "rank 1 as back, got 4 and 1; try LinkMatrix::connect, which sets both",
                       UsageError);
  matrix = allfold::fully_connected_links(3);
  matrix.links[1][1] = 1;
  CHECK_THROWS_AS(FixedTopology{matrix}, UsageError);
  CHECK_THROWS_AS(FixedTopology{LinkMatrix{}}, UsageError);
}

TEST_CASE("the environment overrides the topology and the fast path") {
  const char* const force = "ALLFOLD_FORCE_FULLY_CONNECTED";
  const char* const disable = "ALLFOLD_DISABLE_FAST_PATH";
  unsetenv(force);
  unsetenv(disable);
  CHECK(TopologyOverrides::from_environment() == TopologyOverrides{});
  CHECK(TopologyOverrides{}.apply(TopologyKind::hybrid_cube_mesh) == TopologyKind::hybrid_cube_mesh);
  setenv(force, "1", 1);
  CHECK(TopologyOverrides::from_environment() == TopologyOverrides{true, false});
  CHECK(TopologyOverrides::from_environment().apply(TopologyKind::unknown) == TopologyKind::fully_connected);
  setenv(force, "0", 1);
  setenv(disable, "true", 1);
  CHECK(TopologyOverrides::from_environment() == TopologyOverrides{false, true});
  setenv(disable, "yes", 1);
  CHECK_THROWS_WITH_AS(TopologyOverrides::from_environment(),
                       "allfold: environment: ALLFOLD_DISABLE_FAST_PATH is \"yes\"; expected 0, 1, false or true",
                       UsageError);
  unsetenv(force);
  unsetenv(disable);
}

TEST_CASE("variables are read whole, in range, or refused") {
  const char* const name = "ALLFOLD_TEST_VARIABLE";
  unsetenv(name);
  CHECK_FALSE(allfold::variable(name).has_value());
  CHECK_FALSE(allfold::integer_variable(name, 0, 9).has_value());
  setenv(name, "", 1);
  CHECK_FALSE(allfold::variable(name).has_value());
  CHECK_FALSE(allfold::boolean_variable(name).has_value());
  for (const char* good : {"1", "8", "08"}) {
    setenv(name, good, 1);
    CHECK(allfold::integer_variable(name, 1, 8) == std::atoi(good));
  }
  setenv(name, "-3", 1);
  CHECK(allfold::integer_variable(name, -3, 8) == -3);
  for (const char* bad : {"0", "9", "x", "3x", " 3", "+3", "3.0", "99999999999999999999"}) {
    setenv(name, bad, 1);
    CAPTURE(bad);
    CHECK_THROWS_AS(allfold::integer_variable(name, 1, 8), UsageError);
  }
  setenv(name, "x", 1);
  CHECK_THROWS_WITH_AS(allfold::integer_variable(name, 1, 8),
                       "allfold: environment: ALLFOLD_TEST_VARIABLE is \"x\"; expected a whole number from 1 to 8",
                       UsageError);
  CHECK(allfold::choice_variable(name, {"w", "x"}) == 1U);
  CHECK_THROWS_AS(allfold::choice_variable(name, {"w"}), UsageError);
  unsetenv(name);
}

}  // namespace
