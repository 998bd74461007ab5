// SPDX-License-Identifier: Apache-2.0

/// Trains a network on handwritten digits, data-parallel: each rank computes the gradient of its shard of every
/// batch, and all_reduce folds them. Then it proves what the library promises: the trained weights have the same bits
/// whichever algorithm folded, on every rank, and as if one rank had added up all shards in rank order.
///   train_digits [--ranks N] [--epochs N] [--algorithm NAME|all] [--data FILE]

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
#include "support/progress.hpp"

namespace {

using allfold::Algorithm;
using digits::Network;
using Comm = allfold::Communicator<>;

constexpr double wanted_accuracy = 0.95;

struct Settings {
  int ranks = 0;
  std::string data = ALLFOLD_EXAMPLE_DATA "/digits.csv.gz";
  std::string algorithm = "all";
  digits::Recipe recipe;

  /// The hybrid cube mesh is for eight ranks.
  std::vector<Algorithm> algorithms(int world_size) const {
    std::vector<Algorithm> chosen;
    for (const Algorithm a : allfold::all_algorithms) {
      if (algorithm == name(a) || (algorithm == "all" && (a != Algorithm::hybrid_cube_mesh || world_size == 8))) {
        chosen.push_back(a);
      }
    }
    return chosen;
  }
};

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

class Trainer {
 public:
  Trainer(Comm& comm, const Settings& settings)
      : comm_(comm),
        recipe_(settings.recipe),
        data_(digits::split(digits::load(settings.data), settings.recipe.seed)),
        gradient_(comm.allocate<float>(Network::gradient_count)) {}

  /// Every rank trains together with the others.
  Network together(Algorithm algorithm) {
    return train(name(algorithm), [&, algorithm](const Network& network, std::span<const std::uint32_t> batch) {
      add_shard(network, batch, comm_.rank(), gradient_.span());
      comm_.all_reduce(gradient_.span(), allfold::sum, {.algorithm = algorithm});
      return std::span<const float>(gradient_.span());
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

  static std::vector<std::uint32_t> bits(const Network& network) {
    std::vector<std::uint32_t> words;
    for (const float weight : network.weights()) words.push_back(std::bit_cast<std::uint32_t>(weight));
    return words;
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
  digits::Recipe recipe_;
  digits::Split data_;
  Comm::buffer_type<float> gradient_;
};

std::uint64_t checksum(const std::vector<std::uint32_t>& words) {
  std::uint64_t sum = 0xcbf29ce484222325ULL;
  for (const std::uint32_t word : words) sum = (sum ^ word) * 0x100000001b3ULL;
  return sum;
}

void print(const std::vector<Result>& results, const Trainer& trainer, int world_size) {
  std::printf("\n%zu images to learn from, %zu held out, %d ranks\n\n", trainer.data().training.size(),
              trainer.data().held_out.size(), world_size);
  std::printf("%-17s %8s %8s  %-16s  %-14s  %s\n", "algorithm", "held out", "seconds", "weights", "on all ranks",
              "as one rank");
  const auto word = [](std::optional<bool> same) { return !same ? "-" : *same ? "same bits" : "DIFFERENT"; };
  for (const Result& r : results) {
    std::printf("%-17s %7.2f%% %8.2f  %016llx  %-14s  %s\n", r.title.c_str(), 100 * r.accuracy, r.seconds,
                static_cast<unsigned long long>(r.checksum), word(r.same_on_all_ranks), word(r.same_as_one_rank));
  }
}

void run_rank(const allfold::Environment& environment, const Settings& settings) {
  auto comm = Comm::create(environment);
  Trainer trainer(comm, settings);
  std::vector<Result> results;
  std::vector<std::uint32_t> reference;
  const auto record = [&](std::string_view title, bool promised, auto&& train) {
    const auto begin = std::chrono::steady_clock::now();
    const Network network = train();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    const std::vector<std::uint32_t> words = Trainer::bits(network);
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
  for (const Algorithm algorithm : settings.algorithms(comm.world_size())) {
    record(name(algorithm), algorithm != Algorithm::hybrid_cube_mesh, [&] { return trainer.together(algorithm); });
  }
  const bool ok = std::all_of(results.begin(), results.end(), [](const Result& r) { return r.ok(); });
  if (comm.rank() == 0) {
    print(results, trainer, comm.world_size());
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
    } else if (option == "--epochs") {
      settings.recipe.epochs = std::atoi(value.c_str());
    } else if (option == "--algorithm") {
      settings.algorithm = value;
    } else if (option == "--data") {
      settings.data = value;
    } else {
      throw std::invalid_argument("usage: train_digits [--ranks N] [--epochs N] [--algorithm NAME|all] [--data FILE]");
    }
  }
  if (settings.ranks < 1 || settings.ranks > allfold::max_window_ranks || settings.recipe.epochs < 1) {
    throw std::invalid_argument("train_digits: expected 1 to 8 ranks, and at least one epoch");
  }
  if (settings.algorithms(8).empty()) {
    throw std::invalid_argument("train_digits: there is no algorithm " + settings.algorithm);
  }
  return settings;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Settings settings = parse(argc, argv);
    const auto run = [&](const allfold::Environment& environment) { run_rank(environment, settings); };
    if (const allfold::Environment mine = allfold::environment(); mine.world_size > 1) {
      run(mine);  // mpirun or torchrun has started the ranks
    } else {
      allfold::launch(settings.ranks, run, {.timeout = std::chrono::minutes(5), .stop_others_on_failure = true});
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
