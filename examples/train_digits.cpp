// SPDX-License-Identifier: Apache-2.0

/// Trains a network on handwritten digits, data-parallel: each rank computes the gradient of its shard of every
/// batch, and all_reduce folds them. Then it proves what the library promises: the trained weights have the same bits
/// whichever algorithm folded, on every rank, and as if one rank had added up all shards in rank order; over shared
/// memory and, where allfold was built with UCX, over the network.
///   train_digits [--transport shm|ucx] [--ranks N] [--epochs N] [--algorithm NAME|all] [--data FILE]
/// By itself it starts N ranks on this host. A process that a launcher starts is one rank, on whatever host:
///   mpirun -np 4 --host a:2,b:2 -x MASTER_ADDR=a -x MASTER_PORT=29500 train_digits --transport ucx

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <sched.h>

#include <allfold/allfold.hpp>
#include <allfold/spawn.hpp>

#include "support/digits.hpp"
#include "support/network.hpp"
#include "support/over_shm.hpp"
#include "support/progress.hpp"
#ifdef ALLFOLD_EXAMPLE_UCX
#include "support/over_ucx.hpp"
#endif

namespace {

using digits::Network;

constexpr double wanted_accuracy = 0.95;

struct Settings {
  int ranks = 0;
  std::string transport = "shm";
  std::string data = ALLFOLD_EXAMPLE_DATA "/digits.csv.gz";
  std::string algorithm = "all";
  digits::Recipe recipe;

  /// What is to fold, of what the transport has. @throws std::invalid_argument if it has no such algorithm
  template <class Over>
  std::vector<typename Over::Way> ways(int world_size) const {
    std::vector<typename Over::Way> chosen;
    for (const auto way : Over::ways) {
      if (algorithm == name(way) || (algorithm == "all" && Over::runs(way, world_size))) chosen.push_back(way);
    }
    if (chosen.empty()) {
      throw std::invalid_argument("train_digits: over " + transport + " there is no algorithm " + algorithm);
    }
    return chosen;
  }
};

std::vector<std::uint32_t> bits(const Network& network) {
  std::vector<std::uint32_t> words;
  for (const float weight : network.weights()) words.push_back(std::bit_cast<std::uint32_t>(weight));
  return words;
}

/// One training and what was found out about its weights.
struct Result {
  std::string title;
  double accuracy = 0;
  double seconds = 0;
  std::uint64_t checksum = 0;
  bool same_on_all_ranks = true;
  std::optional<bool> same_as_one_rank{};  ///< nothing where that is not promised

  bool ok() const { return accuracy >= wanted_accuracy && same_on_all_ranks && same_as_one_rank.value_or(true); }
};

/// The training of one rank. `Over`: OverShm or OverUcx; all else is the same for either.
template <class Over>
class Trainer {
 public:
  using Comm = typename Over::Comm;
  using Way = typename Over::Way;

  Trainer(Comm& comm, const Settings& settings)
      : comm_(comm),
        over_(comm),
        recipe_(settings.recipe),
        data_(digits::split(digits::load(settings.data), settings.recipe.seed)) {}

  /// Every rank trains together with the others.
  Network together(Way way) {
    return train(name(way), [&, way](const Network& network, std::span<const std::uint32_t> batch) {
      add_shard(network, batch, comm_.rank(), over_.gradient());
      over_.fold(way);
      return std::span<const float>(over_.gradient());
    });
  }

  /// One rank computes all shards and adds them up in rank order: what the others must agree with.
  Network alone() {
    std::vector<float> total(Network::gradient_count);
    std::vector<float> part(Network::gradient_count);
    return train("one rank", [&](const Network& network, std::span<const std::uint32_t> batch) {
      add_shard(network, batch, 0, total);
      for (int rank = 1; rank < comm_.world_size(); ++rank) {
        add_shard(network, batch, rank, part);
        for (std::size_t i = 0; i < total.size(); ++i) total[i] += part[i];
      }
      return std::span<const float>(total);
    });
  }

  /// The share of held-out images read rightly; each rank reads its part of them.
  double accuracy(const Network& network) {
    const std::span<const digits::Image> images = data_.held_out;
    std::vector<int> correct = {network.count_correct(digits::shard(images, comm_.rank(), comm_.world_size()))};
    comm_.all_reduce(correct, allfold::sum);
    return static_cast<double>(correct[0]) / static_cast<double>(images.size());
  }

  /// Bits are equal on all ranks exactly if each word's greatest is its least.
  bool same_on_all_ranks(const Network& network) {
    std::vector<std::uint32_t> least = bits(network);
    std::vector<std::uint32_t> greatest = least;
    comm_.all_reduce(least, allfold::min);
    comm_.all_reduce(greatest, allfold::max);
    return least == greatest;
  }

  const digits::Split& data() const { return data_; }

 private:
  template <class Fold>
  Network train(std::string_view title, Fold&& fold) {
    const digits::Progress progress(std::string(title), recipe_.epochs);
    return digits::train(data_.training, recipe_, fold, [&](int epoch, double loss) {
      if (comm_.rank() == 0) progress.step(epoch, loss);
    });
  }

  void add_shard(const Network& network, std::span<const std::uint32_t> batch, int rank, std::span<float> gradient) {
    std::fill(gradient.begin(), gradient.end(), 0.0F);
    network.add_gradient(data_.training, digits::shard(batch, rank, comm_.world_size()), gradient);
  }

  Comm& comm_;
  Over over_;
  digits::Recipe recipe_;
  digits::Split data_;
};

std::uint64_t checksum(const std::vector<std::uint32_t>& words) {
  std::uint64_t sum = 0xcbf29ce484222325ULL;
  for (const std::uint32_t word : words) sum = (sum ^ word) * 0x100000001b3ULL;
  return sum;
}

void print(const std::vector<Result>& results, const digits::Split& data, int world_size, const Settings& settings) {
  std::printf("\n%zu images to learn from, %zu held out, %d ranks over %s\n\n", data.training.size(),
              data.held_out.size(), world_size, settings.transport.c_str());
  std::printf("%-18s %8s %8s  %-16s  %-14s  %s\n", "algorithm", "held out", "seconds", "weights", "on all ranks",
              "as one rank");
  const auto word = [](std::optional<bool> same) { return !same ? "-" : *same ? "same bits" : "DIFFERENT"; };
  for (const Result& r : results) {
    std::printf("%-18s %7.2f%% %8.2f  %016llx  %-14s  %s\n", r.title.c_str(), 100 * r.accuracy, r.seconds,
                static_cast<unsigned long long>(r.checksum), word(r.same_on_all_ranks), word(r.same_as_one_rank));
  }
}

template <class Over>
void run_rank(const allfold::Environment& environment, const Settings& settings) {
  auto comm = Over::Comm::create(environment);
  Trainer<Over> trainer(comm, settings);
  std::vector<Result> results;
  std::vector<std::uint32_t> reference;
  const auto record = [&](std::string_view title, bool promised, auto&& train) {
    const auto begin = std::chrono::steady_clock::now();
    const Network network = train();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    const std::vector<std::uint32_t> words = bits(network);
    if (reference.empty()) reference = words;
    Result result{.title = std::string(title),
                  .accuracy = trainer.accuracy(network),
                  .seconds = seconds.count(),
                  .checksum = checksum(words),
                  .same_on_all_ranks = trainer.same_on_all_ranks(network)};
    if (promised) result.same_as_one_rank = words == reference;
    results.push_back(std::move(result));
  };
  record("one rank", true, [&] { return trainer.alone(); });
  for (const auto way : settings.ways<Over>(comm.world_size())) {
    record(name(way), Over::in_rank_order(way), [&] { return trainer.together(way); });
  }
  const bool ok = std::all_of(results.begin(), results.end(), [](const Result& r) { return r.ok(); });
  if (comm.rank() == 0) {
    print(results, trainer.data(), comm.world_size(), settings);
    if (ok) std::printf("\nevery training has at least %.0f%% and the bits that it must have\n", 100 * wanted_accuracy);
  }
  comm.barrier();  // a rank that fails ends the others: not before rank 0 has printed
  if (!ok) throw std::runtime_error("train_digits: an accuracy is too low, or bits differ");
}

Settings parse(int argc, char** argv) {
  Settings settings;
  cpu_set_t cores;
  const int available = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
  settings.ranks = std::clamp(available, 2, allfold::max_window_ranks);
  for (int i = 1; i < argc; i += 2) {
    const std::string_view option = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (option == "--ranks") {
      settings.ranks = std::atoi(value.c_str());
    } else if (option == "--transport") {
      settings.transport = value;
    } else if (option == "--epochs") {
      settings.recipe.epochs = std::atoi(value.c_str());
    } else if (option == "--algorithm") {
      settings.algorithm = value;
    } else if (option == "--data") {
      settings.data = value;
    } else {
      throw std::invalid_argument(
          "usage: train_digits [--transport shm|ucx] [--ranks N] [--epochs N] [--algorithm NAME|all] [--data FILE]");
    }
  }
  if (settings.transport != "shm" && settings.transport != "ucx") {
    throw std::invalid_argument("train_digits: there is no transport " + settings.transport + "; expected shm or ucx");
  }
  if (settings.ranks < 1 || settings.ranks > allfold::max_window_ranks || settings.recipe.epochs < 1) {
    throw std::invalid_argument("train_digits: expected 1 to 8 ranks, and at least one epoch");
  }
  return settings;
}

template <class Over>
void run(const Settings& settings) {
  settings.ways<Over>(allfold::max_window_ranks);  // a name that does not exist is refused before ranks start
  const auto rank = [&](const allfold::Environment& environment) { run_rank<Over>(environment, settings); };
  if (const allfold::Environment mine = allfold::environment(); mine.world_size > 1) {
    rank(mine);  // a launcher has started the ranks
  } else {
    allfold::launch(settings.ranks, rank, {.timeout = std::chrono::minutes(5), .stop_others_on_failure = true});
  }
}

void run_over_ucx([[maybe_unused]] const Settings& settings) {
#ifdef ALLFOLD_EXAMPLE_UCX
  run<digits::OverUcx>(settings);
#else
  throw std::runtime_error(
      "train_digits: it was built without UCX; install it (Debian and Ubuntu: libucx-dev) and configure again");
#endif
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Settings settings = parse(argc, argv);
    settings.transport == "ucx" ? run_over_ucx(settings) : run<digits::OverShm>(settings);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
