// SPDX-License-Identifier: Apache-2.0

#include "tune.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>

namespace bench {
namespace {

constexpr double change_cost = 0.03;
constexpr double impossible = std::numeric_limits<double>::infinity();
constexpr std::size_t algorithm_count = std::size(allfold::all_algorithms);

/// The least cost of all sizes up to one, for each algorithm at that size, and the algorithm before it there.
struct Stage {
  std::size_t bytes = 0;
  std::array<double, algorithm_count> cost{};
  std::array<std::size_t, algorithm_count> before{};
};

}  // namespace

std::vector<Step> best_steps(const std::vector<Row>& rows, Buffers buffers) {
  std::map<std::size_t, std::array<double, algorithm_count>> log_times;
  for (const Row& row : rows) {
    if (row.buffers != buffers || !row.correct) continue;
    auto& times = log_times.try_emplace(row.bytes).first->second;
    if (std::all_of(times.begin(), times.end(), [](double t) { return t == 0; })) times.fill(impossible);
    times[static_cast<std::size_t>(row.algorithm)] = std::log(row.us);
  }
  std::vector<Stage> stages;
  for (const auto& [bytes, times] : log_times) {
    Stage stage{.bytes = bytes, .cost = times};
    for (std::size_t now = 0; now < algorithm_count && !stages.empty(); ++now) {
      const auto cost_from = [&](std::size_t before) {
        return stages.back().cost[before] + (before == now ? 0 : change_cost);
      };
      std::size_t best = now;
      for (std::size_t before = 0; before < algorithm_count; ++before) {
        if (cost_from(before) < cost_from(best)) best = before;
      }
      stage.before[now] = best;
      stage.cost[now] += cost_from(best);
    }
    stages.push_back(stage);
  }

  std::vector<Step> steps;
  if (stages.empty()) return steps;
  const auto& last = stages.back().cost;
  auto at = static_cast<std::size_t>(std::min_element(last.begin(), last.end()) - last.begin());
  for (auto stage = stages.rbegin(); stage != stages.rend(); at = stage->before[at], ++stage) {
    const auto algorithm = static_cast<allfold::Algorithm>(at);
    if (steps.empty() || steps.back().algorithm != algorithm) steps.push_back({stage->bytes, algorithm});
  }
  std::reverse(steps.begin(), steps.end());
  return steps;
}

}  // namespace bench
