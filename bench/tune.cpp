// SPDX-License-Identifier: Apache-2.0

#include "tune.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include <allfold/select/tuned.hpp>

namespace bench {
namespace {

constexpr double change_cost = 0.1;
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
    if (row.buffers != buffers || row.mode == Mode::eager || !row.correct) continue;
    const auto [at, is_new] = log_times.try_emplace(row.bytes);
    if (is_new) at->second.fill(impossible);
    at->second[static_cast<std::size_t>(row.algorithm)] = std::log(row.us);
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

std::string tuned_table(const std::vector<Row>& rows, const Plan& plan, int world_size) {
  std::vector<allfold::TuningRow> table;
  for (const Buffers buffers : {Buffers::symmetric, Buffers::private_memory}) {
    const std::vector<Step> steps = best_steps(rows, buffers);
    for (const Step& step : steps) {
      table.push_back({.world_size = world_size,
                       .symmetric = buffers == Buffers::symmetric,
                       .up_to_bytes = &step == &steps.back() ? allfold::unlimited_bytes : step.max_bytes,
                       .algorithm = step.algorithm});
    }
  }
  return allfold::TunedSelector(std::move(table)).to_text(plan.command_line);
}

}  // namespace bench
