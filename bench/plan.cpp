// SPDX-License-Identifier: Apache-2.0

#include "plan.hpp"

#include <algorithm>
#include <chrono>
#include <map>

#include <CLI/CLI.hpp>
#include <allfold/base/variables.hpp>
#include <allfold/spawn/bootstrap.hpp>

#include "cuda/field.hpp"
#include "peers.hpp"
#include "ucx_subject.hpp"

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

const std::vector<std::string> nccl_peers = {"nccl", "nccl_symm"};

std::vector<std::string> mpi_peers(Transport transport) {
  std::vector<std::string> names;
  for (const PeerKind& kind : peer_kinds) {
    if (kind.beside == transport) names.emplace_back(kind.name);
  }
  return names;
}

std::vector<std::string> peer_choices() {
  std::vector<std::string> choices = {"none", "mpi"};
  for (const auto& names : {mpi_peers(Transport::shm), mpi_peers(Transport::ucx), nccl_peers}) {
    choices.insert(choices.end(), names.begin(), names.end());
  }
  return choices;
}

/// The peers meant by `asked`, of those that the device and the transport have: "mpi" is every MPI peer, "none" is
/// none.
std::vector<std::string> expand(const std::vector<std::string>& asked, Device device, Transport transport) {
  const std::vector<std::string> known = device == Device::cuda ? nccl_peers : mpi_peers(transport);
  std::vector<std::string> peers;
  for (const std::string& name : asked) {
    if (name == "none") continue;
    if (name == "mpi" && device == Device::host) {
      peers.insert(peers.end(), known.begin(), known.end());
    } else if (std::find(known.begin(), known.end(), name) != known.end()) {
      peers.push_back(name);
    } else {
      throw CLI::ValidationError("--peer", name + " is no peer of these ranks; expected " +
                                               CLI::detail::join(known, ", ") + ", or another --device or --transport");
    }
  }
  return peers;
}

std::vector<std::string> collective_choices() {
  std::vector<std::string> choices = {"all"};
  choices.insert(choices.end(), collective_names.begin(), collective_names.end());
  return choices;
}

std::vector<Collective> collectives_named(const std::vector<std::string>& asked) {
  std::vector<Collective> collectives;
  for (std::size_t i = 0; i < collective_names.size(); ++i) {
    const bool named = std::find(asked.begin(), asked.end(), collective_names[i]) != asked.end();
    if (named || asked.front() == "all") collectives.push_back(static_cast<Collective>(i));
  }
  return collectives;
}

void check_ucx_plan(const Plan& plan, const CLI::App& app) {
  if (!built_with_ucx) {
    throw CLI::ValidationError("--transport",
                               "this program was built without UCX; install it (Debian and Ubuntu: "
                               "libucx-dev) and configure again");
  }
  if (plan.device == Device::cuda) throw CLI::ValidationError("--transport", "ucx is for CPU ranks; try --device host");
  if (plan.threads) throw CLI::ValidationError("--threads", "is for --transport shm; with ucx ranks are processes");
  for (const char* const option : {"--algorithm", "--buffers", "--table", "--tune", "--blocks"}) {
    if (app.count(option) > 0) throw CLI::ValidationError(option, "is for --transport shm");
  }
  if (plan.in_place && plan.collectives != std::vector{Collective::all_reduce}) {
    throw CLI::ValidationError("--in-place", "is for --collective all_reduce");
  }
}

/// GPUs where there are two or more that reach one another, unless told.
Device choose_device(const std::string& asked, const Plan& plan, int gpus) {
  if (asked == "host" || (asked == "auto" && gpus < 2)) return Device::host;
  if (!built_with_cuda) {
    throw CLI::ValidationError("--device", "this program was built without CUDA; configure with -DALLFOLD_CUDA=ON");
  }
  const bool share = gpus > 0 && allfold::boolean_variable("ALLFOLD_SHARE_DEVICE").value_or(false);
  if (gpus < 2 && !share) {
    throw CLI::ValidationError("--device", "there are no two GPUs here that reach each other's memory");
  }
  if (plan.op != Operator::sum) throw CLI::ValidationError("--op", "is sum on GPUs, to keep the program small");
  return Device::cuda;
}

/// What a GPU run takes where the command line says nothing.
void apply_cuda_defaults(Plan& plan, const CLI::App& app, int gpus) {
  const auto given = [&](const char* option) { return app.count(option) > 0; };
  if (!given("--ranks")) plan.ranks = std::clamp(gpus, 2, allfold::max_window_ranks);
  if (!given("--min-bytes")) plan.min_bytes = std::size_t{1} << 10;
  if (!given("--max-bytes")) plan.max_bytes = std::size_t{1} << 30;
  if (!given("--factor")) plan.factor = 2;
  if (!given("--type")) plan.type = ElementType::bfloat16;
  if (!given("--budget-ms")) plan.budget_ms = 40;
  if (!given("--batches")) plan.batches = 1;
  // A table of TunedSelector is for graphs and needs no peers.
  const bool tunes = given("--tune");
  const bool graph = given("--graph") || tunes, eager = given("--eager");
  plan.modes.clear();
  if (graph || !eager) plan.modes.push_back(Mode::graph);
  if (eager || !graph) plan.modes.push_back(Mode::eager);
  if (!given("--peer") && !tunes) plan.peers = nccl_peers;
}

}  // namespace

bool Plan::whole_numbers() const {
  if (transport == Transport::ucx) return true;
  return std::find(algorithms.begin(), algorithms.end(), allfold::Algorithm::hybrid_cube_mesh) != algorithms.end() &&
         world_size() == 8;
}

std::vector<std::size_t> Plan::sizes() const {
  std::vector<std::size_t> sizes;
  const auto add = [&](std::size_t bytes) {
    const std::size_t whole = std::max(bytes / element_bytes(), std::size_t{1}) * element_bytes();
    if (sizes.empty() || sizes.back() < whole) sizes.push_back(whole);
  };
  for (const std::size_t bytes : listed_sizes) add(bytes);
  for (std::size_t bytes = min_bytes; listed_sizes.empty() && bytes <= max_bytes; bytes *= factor) add(bytes);
  return sizes;
}

Plan parse_plan(int argc, char** argv) {
  Plan plan;
  plan.cores = usable_cores();
  plan.ranks = std::clamp(static_cast<int>(plan.cores.size()), 2, allfold::max_window_ranks);

  CLI::App app{
      "Times allfold's collectives between ranks of this machine: its GPUs, beside NCCL, where there are two or "
      "more that reach one another; else its cores, beside MPI where asked."};
  const CLI::AsSizeValue size(false);
  bool graph = false, eager = false;
  std::string device = "auto";
  std::string buffers = "both";
  std::string algorithm = "auto";
  std::vector<std::string> collectives;
  app.add_option("--device", device, "host, cuda, or auto: cuda where there are GPUs for it")
      ->check(CLI::IsMember({"auto", "host", "cuda"}));
  app.add_option("--transport", plan.transport, "of CPU ranks: shm, or ucx, where UCX_TLS is tcp unless it is set")
      ->transform(CLI::CheckedTransformer(by_name<Transport>(transport_names)));
  app.add_option("--collective", collectives,
                 "with --transport ucx some of all_reduce all_gather reduce_scatter all_to_all broadcast, or all "
                 "(default: all_reduce)")
      ->delimiter(',')
      ->check(CLI::IsMember(collective_choices()));
  app.add_option("-n,--ranks", plan.ranks, "ranks to start (default: one for each GPU or core, 2 to 8)")
      ->check(CLI::Range(1, allfold::max_window_ranks));
  app.add_flag("--threads", plan.threads, "ranks are threads of one process");
  app.add_option("-b,--min-bytes", plan.min_bytes,
                 "smallest size (default: 8; on GPUs 1K), for allfold and its peers: of the vector that is reduced, "
                 "reduced and scattered, or broadcast; of what each rank gives to an all-gather; of what each rank has "
                 "for each in an all-to-all")
      ->transform(size);
  app.add_option("-e,--max-bytes", plan.max_bytes, "largest size (default: 64M; on GPUs 1G)")->transform(size);
  app.add_option("-f,--factor", plan.factor, "from one size to the next (default: 4; on GPUs 2)")
      ->check(CLI::Range(2, 1024));
  app.add_option("--sizes", plan.listed_sizes, "these sizes instead: 8,1K,64K")
      ->delimiter(',')
      ->transform(size)
      ->excludes("--min-bytes")
      ->excludes("--max-bytes")
      ->excludes("--factor");
  app.add_option("-t,--type", plan.type,
                 "element type: float double int32 float16 bfloat16 (default: float); on GPUs float float16 bfloat16 "
                 "(default: bfloat16)")
      ->transform(CLI::CheckedTransformer(by_name<ElementType>(type_names)));
  app.add_option("-o,--op", plan.op, "operator: sum max avg; on GPUs sum")
      ->transform(CLI::CheckedTransformer(by_name<Operator>(operator_names)));
  app.add_option("--buffers", buffers, "where operands lie")->check(CLI::IsMember({"symmetric", "private", "both"}));
  app.add_flag("--in-place", plan.in_place, "input and output are the same");
  app.add_flag("--graph", graph, "GPUs: only calls in a CUDA graph that is replayed (default: --graph and --eager)");
  app.add_flag("--eager", eager, "GPUs: only calls enqueued one by one on a stream");
  app.add_option("--graph-depth", plan.graph_depth, "calls in one graph (default: 50 to 1M, 20 to 256M, 5 above)")
      ->check(CLI::Range(1, 1000));
  app.add_option("--algorithm", algorithm, "auto: the selector's choice; all: every one that can run")
      ->check(CLI::IsMember(algorithm_choices()));
  app.add_option("--table", plan.table_file, "the selector's table, as --tune writes it (default: the built-in one)")
      ->check(CLI::ExistingFile);
  app.add_option("--blocks", plan.blocks, "Options::blocks of allfold (default: what the transport finds best)")
      ->check(CLI::PositiveNumber);
  app.add_option("--iterations", plan.iterations, "calls of one batch (default: from the budget)")
      ->check(CLI::PositiveNumber);
  app.add_option("--warmup", plan.warmup, "untimed calls before a turn (default: from the budget)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--budget-ms", plan.budget_ms, "timed work of one row (default: 100; on GPUs 40)")
      ->check(CLI::PositiveNumber);
  app.add_option("--rounds", plan.rounds, "turns of each contestant at one size")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--batches", plan.batches, "batches of one turn (default: 3; on GPUs 1)")
      ->check(CLI::Range(1, max_batches_per_turn));
  app.add_flag("--check,!--no-check", plan.check, "compare every result with the expected bits (default: on)");
  app.add_option("--timeout", plan.timeout_s, "seconds after which the run starts no further size")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--csv", plan.csv_file, "write the rows to this file");
  app.add_option("--json", plan.json_file, "write the rows, the machine and the command to this file");
  app.add_option("--tune", plan.tune_file, "measure every algorithm and write a TunedSelector table to this file");
  app.add_option("--peer", plan.peers,
                 "interleave others: of Open MPI some of vader, ucx_posix, ucx_sysv (with --transport ucx: btl_tcp, "
                 "ucx_tcp), or mpi for those that there are (default: none); on GPUs nccl, nccl_symm (default: both)")
      ->delimiter(',')
      ->check(CLI::IsMember(peer_choices()));
  app.add_option("--nccl-library", plan.nccl_library, "path of libnccl.so.2 (default: where the loader finds one)");
  app.add_option("--ceiling-gbs", plan.ceiling_gbs, "GPUs: what each can store to its peers, all at once")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--peer-program", plan.peer_program, "where peer_mpi is (default: beside this program)");
  try {
    app.parse(argc, argv);
    plan.environment = allfold::environment();
    const bool no_gpus = device == "host" || (device == "auto" && plan.transport == Transport::ucx);
    const int gpus = no_gpus ? 0 : gpus_in_reach();
    plan.device = choose_device(device, plan, gpus);
    if (plan.device == Device::cuda) apply_cuda_defaults(plan, app, gpus);
    plan.any_peers = std::find(plan.peers.begin(), plan.peers.end(), "mpi") != plan.peers.end();
    plan.peers = expand(plan.peers, plan.device, plan.transport);
    plan.algorithms = algorithms_named(algorithm);
    if (!collectives.empty()) plan.collectives = collectives_named(collectives);
    if (plan.transport == Transport::ucx) {
      check_ucx_plan(plan, app);
      plan.buffers = {Buffers::private_memory};
    } else if (plan.collectives != std::vector{Collective::all_reduce}) {
      throw CLI::ValidationError("--collective", "is all_reduce unless --transport is ucx");
    }
    if (buffers != "both" && plan.transport == Transport::shm)
      plan.buffers = {buffers == "symmetric" ? Buffers::symmetric : Buffers::private_memory};
    if (!plan.tune_file.empty()) plan.algorithms = algorithms_named("all");
    if (!plan.listed_sizes.empty()) {
      std::sort(plan.listed_sizes.begin(), plan.listed_sizes.end());
      plan.min_bytes = plan.listed_sizes.front();
      plan.max_bytes = plan.listed_sizes.back();
    }
    if (plan.max_bytes < plan.min_bytes || plan.min_bytes == 0) {
      throw CLI::ValidationError("--min-bytes", "must be at least 1 and at most --max-bytes");
    }
    if (plan.op != Operator::sum && plan.type != ElementType::float32) {
      throw CLI::ValidationError("--op", "max and avg are built for --type float alone, to keep the program small");
    }
    if (plan.device == Device::cuda && plan.type != ElementType::float32 && plan.type != ElementType::float16 &&
        plan.type != ElementType::bfloat16) {
      throw CLI::ValidationError("--type", "is float, float16 or bfloat16 on GPUs, to keep the program small");
    }
    const bool mpi = plan.device == Device::host && !plan.peers.empty();
    if (plan.launched_elsewhere() && (plan.threads || mpi || app.count("--ranks") > 0)) {
      throw CLI::ValidationError("--ranks, --threads, --peer mpi",
                                 "are for ranks that allfold_perf starts itself; a launcher has started this one");
    }
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  plan.deadline = allfold::Deadline::after(
      std::chrono::duration_cast<allfold::Duration>(std::chrono::duration<double>(plan.timeout_s)));
  for (int i = 0; i < argc; ++i) {
    const std::string word = argv[i];
    plan.command_line += i == 0 ? word.substr(word.rfind('/') + 1) : " " + word;
  }
  return plan;
}

}  // namespace bench
