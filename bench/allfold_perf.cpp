// SPDX-License-Identifier: Apache-2.0

/// Times all-reduce in the manner of collective libraries' own benchmarks; see README.md beside this file.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>

#include <allfold/spawn.hpp>

#include "plan.hpp"
#include "report.hpp"
#include "sweep.hpp"
#include "tune.hpp"
#include "turns.hpp"

namespace {

void run_rank(const allfold::Environment& environment, const bench::Plan& plan, bench::Turns& turns) {
  bench::Report report(plan, environment.world_size);
  const bool first = environment.rank == 0;
  bench::sweep(environment, plan, turns, first ? &report : nullptr);
  if (!first) return;
  report.print_summary();
  report.write_files();
  if (!plan.tune_file.empty() && !report.stopped()) {
    bench::write_file(plan.tune_file, bench::tuned_table(report.rows(), plan, environment.world_size));
  }
  if (!report.all_correct()) throw std::runtime_error("allfold_perf: some results are wrong");
  if (report.stopped()) throw std::runtime_error("allfold_perf: the time was up before the last size");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    bench::Plan plan = bench::parse_plan(argc, argv);
    bench::Turns turns(plan);
    if (plan.device == bench::Device::host) plan.peers = turns.peer_names();
    if (plan.device == bench::Device::cuda) ::setenv("NCCL_NVLS_ENABLE", "0", 1);  // no multicast, by nobody
    const auto run = [&](const allfold::Environment& environment) { run_rank(environment, plan, turns); };
    if (plan.launched_elsewhere()) {
      run(plan.environment);
      return 0;
    }
    allfold::launch(plan.ranks, run,
                    {.ranks = plan.threads ? allfold::Ranks::threads : allfold::Ranks::processes,
                     .timeout = plan.deadline.remaining() + std::chrono::seconds(30),  // for the size that is under way
                     .stop_others_on_failure = true});
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
