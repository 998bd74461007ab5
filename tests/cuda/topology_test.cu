// SPDX-License-Identifier: Apache-2.0
// What PeerAccessTopology and NvmlTopology say of this machine's GPUs, next to `nvidia-smi topo -m`.
#include <allfold/topology/nvml.hpp>
#include <allfold/topology/peer_access.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <allfold/topology/detect.hpp>
#include <allfold/topology/parse.hpp>
#include <support/skip.hpp>

namespace {

using allfold::Identity;
using allfold::LinkMatrix;
using allfold::NvmlTopology;
using allfold::PeerAccessTopology;
using allfold::TopologyKind;
using allfold::UsageError;
using allfold::detail::links_between_visible;

/// A rank on a made-up GPU.
Identity rank_on(int gpu) {
  Identity rank;
  rank.device = 0;
  rank.device_id[15] = static_cast<char>(gpu);
  return rank;
}

std::vector<Identity> ranks_on(const std::vector<int>& gpus) {
  std::vector<Identity> ranks;
  ranks.reserve(gpus.size());
  for (const int gpu : gpus) ranks.push_back(rank_on(gpu));
  return ranks;
}

bool all_linked(int, int) { return true; }
bool none_linked(int, int) { return false; }

/// One rank for each GPU that this process sees, as far as a window spans.
std::vector<Identity> visible_ranks() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  static_cast<void>(cudaGetLastError());
  std::vector<Identity> ranks(static_cast<std::size_t>(std::min(count, allfold::max_window_ranks)));
  for (std::size_t device = 0; device < ranks.size(); ++device) {
    cudaDeviceProp properties;
    REQUIRE(cudaGetDeviceProperties(&properties, static_cast<int>(device)) == cudaSuccess);
    ranks[device].device = static_cast<int>(device);
    std::memcpy(ranks[device].device_id, &properties.uuid, sizeof ranks[device].device_id);
  }
  return ranks;
}

std::string text_of(const LinkMatrix& matrix) {
  std::string text;
  for (int a = 0; a < matrix.world_size; ++a) {
    text += "\n ";
    for (int b = 0; b < matrix.world_size; ++b) text += ' ' + std::to_string(matrix.links[a][b]);
  }
  return text;
}

/// What a command prints; nothing if it fails.
std::string output_of(const char* command) {
  std::FILE* const pipe = popen(command, "r");
  if (pipe == nullptr) return "";
  std::string output;
  char chunk[4096];
  while (const std::size_t got = std::fread(chunk, 1, sizeof chunk, pipe)) output.append(chunk, got);
  return pclose(pipe) == 0 ? output : "";
}

/// The number that nvidia-smi gives each rank's GPU, by UUID; -1 for one that it does not list.
std::vector<int> numbers_in_smi(const std::string& list, const std::vector<Identity>& ranks) {
  std::vector<int> numbers;
  numbers.reserve(ranks.size());
  for (const Identity& rank : ranks) {
    const std::size_t found = list.find(allfold::detail::gpu_name(rank));
    const bool listed = found != std::string::npos;
    numbers.push_back(listed ? static_cast<int>(std::count(list.begin(), list.begin() + found, '\n')) : -1);
  }
  return numbers;
}

}  // namespace

TEST_CASE("PeerAccessTopology asks about the GPUs that this process sees, by their UUIDs, both ways") {
  const auto next_to = [](int from, int to) { return from + 1 == to || to + 1 == from; };
  // Ranks 0 to 3 on the GPUs 7, 5, 6 and 8, which this process sees as 2, 0, 1 and 3.
  LinkMatrix matrix = links_between_visible(ranks_on({7, 5, 6, 8}), ranks_on({5, 6, 7, 8}), next_to);
  CHECK(matrix.world_size == 4);
  CHECK(matrix.links[0][1] == 0);
  CHECK(matrix.links[0][2] == 1);
  CHECK(matrix.links[0][3] == 1);
  CHECK(matrix.links[1][2] == 1);
  CHECK(matrix.links[1][3] == 0);
  CHECK(matrix.links[3][0] == 1);
  CHECK(matrix.links[0][0] == 0);
  const auto one_way = [](int from, int to) { return from < to; };
  matrix = links_between_visible(ranks_on({1, 2}), ranks_on({1, 2}), one_way);
  CHECK(matrix == links_between_visible(ranks_on({1, 2}), ranks_on({1, 2}), none_linked));
  CHECK(classify(matrix) == TopologyKind::unknown);
  matrix = links_between_visible(ranks_on({1, 2}), ranks_on({1, 2}), all_linked);
  CHECK(classify(matrix) == TopologyKind::fully_connected);
}

TEST_CASE("PeerAccessTopology takes a GPU that this process does not see for linked") {
  // One visible GPU a process.
  LinkMatrix matrix = links_between_visible(ranks_on({1, 2, 3, 4}), ranks_on({3}), none_linked);
  CHECK(classify(matrix) == TopologyKind::fully_connected);
  // What it can ask, it asks.
  matrix = links_between_visible(ranks_on({1, 2, 3}), ranks_on({1, 2}), none_linked);
  CHECK(matrix.links[0][1] == 0);
  CHECK(matrix.links[0][2] == 1);
  CHECK(matrix.links[2][1] == 1);
}

TEST_CASE("PeerAccessTopology takes ranks that share a GPU for linked") {
  const LinkMatrix matrix = links_between_visible(ranks_on({1, 2, 1}), ranks_on({1, 2}), none_linked);
  CHECK(matrix.links[0][2] == 1);
  CHECK(matrix.links[0][1] == 0);
}

TEST_CASE("PeerAccessTopology refuses ranks on CPU cores") {
  std::vector<Identity> ranks = ranks_on({1, 2});
  ranks[0].device = -1;
  CHECK_THROWS_WITH_AS(PeerAccessTopology().links(ranks),
                       "allfold: topology: PeerAccessTopology finds the links between GPUs, and rank 0 computes on a "
                       "CPU; expected a GPU for every rank; try FixedTopology",
                       UsageError);
}

TEST_CASE("PeerAccessTopology answers where there is a GPU, and says what CUDA says where there is none") {
  const std::vector<Identity> made_up = ranks_on({1, 2});
  if (!visible_ranks().empty()) {
    CHECK(classify(PeerAccessTopology().links(made_up)) == TopologyKind::fully_connected);
    CHECK(cudaPeekAtLastError() == cudaSuccess);
    return;
  }
  try {
    PeerAccessTopology().links(made_up);
    FAIL("there is no GPU, and still an answer");
  } catch (const allfold::CudaError& error) {
    const std::string expected = "allfold: topology: cudaGetDeviceCount failed: ";
    CHECK(std::string(error.what()).substr(0, expected.size()) == expected);
    CHECK(error.number() != 0);
  }
}

TEST_CASE("PeerAccessTopology and NvmlTopology agree on this machine's GPUs") {
  const std::vector<Identity> ranks = visible_ranks();
  if (ranks.size() < 2) SKIP_CASE("fewer than two GPUs");
  const LinkMatrix counted = NvmlTopology().links(ranks);
  const LinkMatrix accessible = PeerAccessTopology().links(ranks);
  MESSAGE("NVLinks by NVML:", text_of(counted));
  MESSAGE("peer access by CUDA:", text_of(accessible));
  CHECK(cudaPeekAtLastError() == cudaSuccess);
  CHECK(classify(counted) == classify(accessible));
  for (int a = 0; a < counted.world_size; ++a) {
    for (int b = 0; b < counted.world_size; ++b) {
      CAPTURE(a);
      CAPTURE(b);
      CHECK(counted.connected(a, b) == accessible.connected(a, b));
    }
  }
}

TEST_CASE("both topologies follow the ranks, however they are numbered") {
  std::vector<Identity> ranks = visible_ranks();
  if (ranks.size() < 2) SKIP_CASE("fewer than two GPUs");
  const auto reversed = [&ranks](auto topology) {
    std::vector<Identity> backwards(ranks.rbegin(), ranks.rend());
    const LinkMatrix matrix = topology.links(backwards);
    LinkMatrix back = matrix;
    const int last = matrix.world_size - 1;
    for (int a = 0; a <= last; ++a) {
      for (int b = 0; b <= last; ++b) back.links[last - a][last - b] = matrix.links[a][b];
    }
    return back;
  };
  CHECK(reversed(NvmlTopology()) == NvmlTopology().links(ranks));
  CHECK(reversed(PeerAccessTopology()) == PeerAccessTopology().links(ranks));
}

TEST_CASE("NvmlTopology agrees with nvidia-smi topo -m") {
  const std::vector<Identity> ranks = visible_ranks();
  if (ranks.size() < 2) SKIP_CASE("fewer than two GPUs");
  const std::string list = output_of("nvidia-smi --query-gpu=uuid --format=csv,noheader 2>/dev/null");
  const std::string matrix = output_of("nvidia-smi topo -m 2>/dev/null");
  if (list.empty() || matrix.empty()) SKIP_CASE("no nvidia-smi, or it does not know the topology");
  MESSAGE("nvidia-smi topo -m:\n", matrix);
  const int gpus = static_cast<int>(std::count(list.begin(), list.end(), '\n'));
  const LinkMatrix expected =
      allfold::parse_link_matrix(matrix, "nvidia-smi topo -m", std::min(gpus, allfold::max_window_ranks));
  const std::vector<int> numbers = numbers_in_smi(list, ranks);
  const LinkMatrix found = NvmlTopology().links(ranks);
  int compared = 0;
  for (std::size_t a = 0; a < ranks.size(); ++a) {
    CAPTURE(a);
    CHECK(numbers[a] >= 0);
    for (std::size_t b = 0; b < a; ++b) {
      CAPTURE(b);
      if (numbers[a] >= expected.world_size || numbers[b] >= expected.world_size) continue;
      CHECK(int{found.links[a][b]} == int{expected.links[numbers[a]][numbers[b]]});
      ++compared;
    }
  }
  CHECK(compared > 0);
}
