// SPDX-License-Identifier: Apache-2.0

#include "plan.hpp"

#include <algorithm>
#include <map>

#include <CLI/CLI.hpp>
#include <allfold/spawn/bootstrap.hpp>

#include "peers.hpp"

namespace bench {
namespace {

/// A map from the names that the command line takes to the values of an enumeration.
template <class Enum, std::size_t N>
std::map<std::string, Enum> by_name(const std::array<const char*, N>& names) {
  std::map<std::string, Enum> map;
  for (std::size_t i = 0; i < N; ++i) map[names[i]] = static_cast<Enum>(i);
  return map;
}

std::vector<std::string> algorithm_choices() {
  std::vector<std::string> choices = {"auto", "all"};
  for (const allfold::Algorithm a : allfold::all_algorithms) choices.emplace_back(allfold::name(a));
  return choices;
}

std::vector<allfold::Algorithm> algorithms_named(const std::string& choice) {
  std::vector<allfold::Algorithm> algorithms;
  for (const allfold::Algorithm a : allfold::all_algorithms) {
    if (choice == "all" || choice == allfold::name(a)) algorithms.push_back(a);
  }
  return algorithms;
}

/// Replaces "mpi" by every MPI peer that there is.
std::vector<std::string> expand(const std::vector<std::string>& names) {
  std::vector<std::string> peers;
  for (const std::string& name : names) {
    if (name != "mpi") {
      peers.push_back(name);
      continue;
    }
    for (const PeerKind& kind : peer_kinds) peers.emplace_back(kind.name);
  }
  return peers;
}

}  // namespace

bool Plan::whole_numbers() const {
  return std::find(algorithms.begin(), algorithms.end(), allfold::Algorithm::hybrid_cube_mesh) != algorithms.end() &&
         (launched_elsewhere() ? environment.world_size : ranks) == 8;
}

std::vector<std::size_t> Plan::sizes() const {
  std::vector<std::size_t> sizes;
  for (std::size_t bytes = min_bytes; bytes <= max_bytes; bytes *= factor) {
    const std::size_t whole = std::max(bytes / element_bytes(), std::size_t{1}) * element_bytes();
    if (sizes.empty() || sizes.back() < whole) sizes.push_back(whole);
  }
  return sizes;
}

Plan parse_plan(int argc, char** argv) {
  Plan plan;
  plan.cores = usable_cores();
  plan.ranks = std::clamp(static_cast<int>(plan.cores.size()), 2, allfold::max_window_ranks);

  CLI::App app{"Times allfold's all-reduce between ranks of this machine, beside MPI where asked."};
  const CLI::AsSizeValue size(false);
  std::string buffers = "both";
  std::string algorithm = "auto";
  app.add_option("-n,--ranks", plan.ranks, "ranks to start (default: one for each core, 2 to 8)")
      ->check(CLI::Range(1, allfold::max_window_ranks));
  app.add_flag("--threads", plan.threads, "ranks are threads of one process");
  app.add_option("-b,--min-bytes", plan.min_bytes, "smallest message (4K, 1M, ..)")->transform(size);
  app.add_option("-e,--max-bytes", plan.max_bytes, "largest message")->transform(size);
  app.add_option("-f,--factor", plan.factor, "from one size to the next")->check(CLI::Range(2, 1024));
  app.add_option("-t,--type", plan.type, "element type: float double int32 float16 bfloat16")
      ->transform(CLI::CheckedTransformer(by_name<ElementType>(type_names)));
  app.add_option("-o,--op", plan.op, "operator: sum max avg")
      ->transform(CLI::CheckedTransformer(by_name<Operator>(operator_names)));
  app.add_option("--buffers", buffers, "where operands lie")->check(CLI::IsMember({"symmetric", "private", "both"}));
  app.add_flag("--in-place", plan.in_place, "input and output are the same");
  app.add_option("--algorithm", algorithm, "auto: the selector's choice; all: every one that can run")
      ->check(CLI::IsMember(algorithm_choices()));
  app.add_option("--iterations", plan.iterations, "calls of one batch (default: from the budget)")
      ->check(CLI::PositiveNumber);
  app.add_option("--warmup", plan.warmup, "untimed calls before a turn (default: from the budget)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--budget-ms", plan.budget_ms, "timed work of one row")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--rounds", plan.rounds, "turns of each contestant at one size")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--batches", plan.batches, "batches of one turn")
      ->check(CLI::Range(1, max_batches_per_turn))
      ->capture_default_str();
  app.add_flag("--check,!--no-check", plan.check, "compare every result with the expected bits (default: on)");
  app.add_option("--timeout", plan.timeout_s, "seconds that the whole run may take")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--csv", plan.csv_file, "write the rows to this file");
  app.add_option("--json", plan.json_file, "write the rows, the machine and the command to this file");
  app.add_option("--tune", plan.tune_file, "measure every algorithm and write a TunedSelector table to this file");
  app.add_option("--peer", plan.peers,
                 "interleave Open MPI: some of vader, ucx_posix, ucx_sysv, or mpi for those that there are")
      ->delimiter(',')
      ->check(CLI::IsMember({"mpi", "vader", "ucx_posix", "ucx_sysv"}));
  app.add_option("--peer-program", plan.peer_program, "where peer_mpi is (default: beside this program)");
  try {
    app.parse(argc, argv);
    plan.environment = allfold::environment();
    plan.any_peers = std::find(plan.peers.begin(), plan.peers.end(), "mpi") != plan.peers.end();
    plan.peers = expand(plan.peers);
    plan.algorithms = algorithms_named(algorithm);
    if (buffers != "both") plan.buffers = {buffers == "symmetric" ? Buffers::symmetric : Buffers::private_memory};
    if (!plan.tune_file.empty()) plan.algorithms = algorithms_named("all");
    if (plan.max_bytes < plan.min_bytes || plan.min_bytes == 0) {
      throw CLI::ValidationError("--min-bytes", "must be at least 1 and at most --max-bytes");
    }
    if (plan.op != Operator::sum && plan.type != ElementType::float32) {
      throw CLI::ValidationError("--op", "max and avg are built for --type float alone, to keep the program small");
    }
    if (plan.launched_elsewhere() && (plan.threads || !plan.peers.empty() || app.count("--ranks") > 0)) {
      throw CLI::ValidationError("--ranks, --threads, --peer",
                                 "are for ranks that allfold_perf starts itself; a launcher has started this one");
    }
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  for (int i = 0; i < argc; ++i) {
    const std::string word = argv[i];
    plan.command_line += i == 0 ? word.substr(word.rfind('/') + 1) : " " + word;
  }
  return plan;
}

}  // namespace bench
