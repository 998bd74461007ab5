// SPDX-License-Identifier: Apache-2.0

/// Foretells the time and the messages of every algorithm over messages, for 2 to 4096 ranks on a simulated network:
/// the very coroutines that a transport runs, and no machine. docs/scaling.md has the model, and tables made by this
/// program.
///
///   allfold_scale [--network tcp|fabric] [--collective NAME] [--ranks P,P,..] [--bytes N,N,..]
///                 [--calls N] [--cores N] [--whole] [--csv | --best | --chosen]

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <allfold/base/concat.hpp>
#include <allfold/exec/simulated_network.hpp>

#include "subjects.hpp"

namespace {

using Subject = scale::Subject<allfold::SimulatedEndpoint>;

/// What was asked for.
struct Plan {
  std::string network = "tcp";
  std::string collective;  ///< empty: all
  std::vector<std::size_t> ranks = {2, 3, 4, 8, 16, 32, 64, 128, 256, 1024, 4096};
  std::vector<std::size_t> bytes = {8, std::size_t{64} << 10, std::size_t{1} << 20, std::size_t{64} << 20};
  bool csv = false;
  bool best = false;
  bool chosen = false;
  int calls = 1;  ///< back to back; the time is that of one
  int cores = 0;  ///< that the ranks share; 0: each has one
  /// Algorithms of P^2 messages stop here unless --whole is given: 4096 ranks take half a minute each.
  std::size_t most_quadratic_ranks = 1024;
};

[[noreturn]] void refuse(allfold::TextPieces what) {
  throw std::runtime_error("allfold_scale: " + allfold::concat(what));
}

std::vector<std::size_t> parse_list(std::string_view option, std::string_view text) {
  std::vector<std::size_t> numbers;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(','));
    std::size_t number = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
    if (error != std::errc() || end != word.data() + word.size()) {
      refuse({option, ": expected whole numbers, one comma between two, got \"", text, "\""});
    }
    numbers.push_back(number);
    text.remove_prefix(word.size() == text.size() ? text.size() : word.size() + 1);
  }
  if (numbers.empty()) refuse({option, ": expected at least one number"});
  return numbers;
}

Plan parse(int argc, char** argv) {
  Plan plan;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    const auto value = [&]() -> std::string_view {
      if (++i == argc) refuse({option, " needs a value"});
      return argv[i];
    };
    if (option == "--network") {
      plan.network = value();
      if (plan.network != "tcp" && plan.network != "fabric") {
        refuse({"--network: expected tcp or fabric, got \"", plan.network, "\""});
      }
    } else if (option == "--collective") {
      plan.collective = value();
    } else if (option == "--ranks") {
      plan.ranks = parse_list(option, value());
    } else if (option == "--bytes") {
      plan.bytes = parse_list(option, value());
    } else if (option == "--calls") {
      plan.calls = static_cast<int>(parse_list(option, value()).front());
    } else if (option == "--cores") {
      plan.cores = static_cast<int>(parse_list(option, value()).front());
    } else if (option == "--csv") {
      plan.csv = true;
    } else if (option == "--chosen") {
      plan.chosen = true;
    } else if (option == "--whole") {
      plan.most_quadratic_ranks = allfold::max_message_ranks;
    } else if (option == "--best") {
      plan.best = true;
    } else {
      refuse({"unknown option \"", option,
              "\"; expected --network, --collective, --ranks, --bytes, --calls, --cores, --whole, --csv, --best or "
              "--chosen"});
    }
  }
  return plan;
}

bool can_run(const Plan& plan, const Subject& subject, std::size_t ranks) {
  return !subject.quadratic || ranks <= plan.most_quadratic_ranks;
}

allfold::SimulatedRun foretell(const Plan& plan, const Subject& subject, std::size_t ranks, std::size_t bytes) {
  allfold::NetworkModel model = plan.network == "tcp" ? allfold::tcp_loopback : allfold::fabric_100g;
  model.cores = plan.cores;
  void* const memory = allfold::SimulatedNetwork::no_memory();  // only time passes: nothing is read, or written
  allfold::SimulatedNetwork network(static_cast<int>(ranks), model, {}, false);
  allfold::SimulatedRun run = network.run([&](allfold::SimulatedEndpoint& e) -> allfold::Task<bool> {
    for (int call = 0; call < plan.calls; ++call, e.next()) {
      if (!co_await subject.run(e, memory, memory, bytes)) co_return false;
    }
    co_return true;
  });
  if (run.failure) run.failure->raise();
  run.time_us /= plan.calls;
  for (std::uint64_t* const count : {&run.messages, &run.max_messages, &run.bytes, &run.max_bytes}) {
    *count /= static_cast<std::uint64_t>(plan.calls);
  }
  return run;
}

std::string bytes_text(std::size_t bytes) {
  if (bytes != 0 && bytes % (std::size_t{1} << 20) == 0) return allfold::concat({bytes >> 20, " MiB"});
  if (bytes != 0 && bytes % 1024 == 0) return allfold::concat({bytes >> 10, " KiB"});
  return allfold::concat({bytes, " B"});
}

std::string time_text(double us) {
  char text[32];
  std::snprintf(text, sizeof text, us < 100 ? "%.1f" : "%.0f", us);
  return text;
}

/// For each algorithm a row of times over the world sizes, and one of messages, which do not depend on the bytes.
void print_tables(const Plan& plan, const std::vector<Subject>& subjects) {
  for (const std::size_t bytes : plan.bytes) {
    std::printf("\n### %s, us\n\n| |", bytes_text(bytes).c_str());
    for (const std::size_t ranks : plan.ranks) std::printf(" %zu |", ranks);
    std::printf("\n|---|");
    for (std::size_t i = 0; i < plan.ranks.size(); ++i) std::printf("---|");
    std::printf("\n");
    for (const Subject& subject : subjects) {
      std::printf("| %s %s |", subject.collective.c_str(), subject.algorithm.c_str());
      for (const std::size_t ranks : plan.ranks) {
        if (!can_run(plan, subject, ranks)) {
          std::printf(" |");
        } else {
          std::printf(" %s |", time_text(foretell(plan, subject, ranks, bytes).time_us).c_str());
        }
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
}

void print_csv(const Plan& plan, const std::vector<Subject>& subjects) {
  std::printf(
      "network,collective,algorithm,reproducible,chosen,ranks,bytes,us,messages,max_messages_of_rank,max_bytes_of_"
      "rank\n");
  for (const Subject& subject : subjects) {
    for (const std::size_t ranks : plan.ranks) {
      for (const std::size_t bytes : plan.bytes) {
        if (!can_run(plan, subject, ranks)) continue;
        const allfold::SimulatedRun run = foretell(plan, subject, ranks, bytes);
        const bool chosen =
            subject.algorithm ==
            scale::chosen_algorithm(subject.collective, {.bytes = bytes, .world_size = static_cast<int>(ranks)});
        std::printf("%s,%s,%s,%d,%d,%zu,%zu,%.3f,%ju,%ju,%ju\n", plan.network.c_str(), subject.collective.c_str(),
                    subject.algorithm.c_str(), subject.reproducible ? 1 : 0, chosen ? 1 : 0, ranks, bytes, run.time_us,
                    std::uintmax_t{run.messages}, std::uintmax_t{run.max_messages}, std::uintmax_t{run.max_bytes});
      }
    }
  }
}

/// Longer ones take several times what is foretold where ranks are more than cores, so that the choice follows what was
/// measured.
constexpr std::size_t longest_known_broadcast = std::size_t{128} << 10;

/// What the default thresholds choose, and how far that is from the fastest; false if it is farther than half as slow
/// again anywhere.
bool print_chosen(const Plan& plan, const std::vector<Subject>& subjects) {
  double worst = 1;
  for (const bool reproducible : {false, true}) {
    std::map<std::string, std::vector<const Subject*>> kinds;
    for (const Subject& subject : subjects) {
      if (subject.folds ? !reproducible || subject.reproducible : !reproducible)
        kinds[subject.collective].push_back(&subject);
    }
    for (const auto& [collective, candidates] : kinds) {
      for (const std::size_t ranks : plan.ranks) {
        for (const std::size_t bytes : plan.bytes) {
          if (collective == "broadcast" && bytes > longest_known_broadcast) continue;
          const std::string chosen = scale::chosen_algorithm(
              collective, {.bytes = bytes, .world_size = static_cast<int>(ranks), .reproducible = reproducible});
          double least = 0, of_chosen = 0;
          std::string best;
          for (const Subject* const subject : candidates) {
            if (!can_run(plan, *subject, ranks)) continue;
            const double us = foretell(plan, *subject, ranks, bytes).time_us;
            if (subject->algorithm == chosen) of_chosen = us;
            if (!best.empty() && us >= least) continue;
            least = us;
            best = subject->algorithm;
          }
          if (of_chosen == 0) continue;
          worst = std::max(worst, of_chosen / least);
          if (of_chosen < 1.1 * least) continue;
          std::printf("%s%s, %zu ranks, %s: %s %s us, but %s %s us\n", collective.c_str(),
                      reproducible ? ", reproducible" : "", ranks, bytes_text(bytes).c_str(), chosen.c_str(),
                      time_text(of_chosen).c_str(), best.c_str(), time_text(least).c_str());
        }
      }
    }
  }
  std::printf("the choices are at most %.2f times as slow as the best\n", worst);
  return worst <= 1.5;
}

/// The fastest algorithm of each collective at each size: what a selector's table is made from.
void print_best(const Plan& plan, const std::vector<Subject>& subjects) {
  std::map<std::string, std::vector<const Subject*>> kinds;
  for (const Subject& subject : subjects) {
    kinds[subject.collective].push_back(&subject);
    if (subject.reproducible) kinds[subject.collective + ", reproducible"].push_back(&subject);
  }
  for (const auto& [kind, candidates] : kinds) {
    if (candidates.size() < 2) continue;
    std::printf("\n%s\n", kind.c_str());
    for (const std::size_t ranks : plan.ranks) {
      std::string last;
      std::printf("%6zu ranks:", ranks);
      for (const std::size_t bytes : plan.bytes) {
        double least = 0;
        std::string best;
        for (const Subject* const subject : candidates) {
          if (!can_run(plan, *subject, ranks)) continue;
          const double us = foretell(plan, *subject, ranks, bytes).time_us;
          if (best.empty() || us < least) {
            least = us;
            best = subject->algorithm;
          }
        }
        if (best != last) std::printf("  from %s %s", bytes_text(bytes).c_str(), best.c_str());
        last = best;
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Plan plan = parse(argc, argv);
    std::vector<Subject> subjects;
    for (Subject& subject : scale::all_subjects<allfold::SimulatedEndpoint>()) {
      if (plan.collective.empty() || plan.collective == subject.collective) subjects.push_back(std::move(subject));
    }
    if (subjects.empty()) refuse({"--collective: there is no \"", plan.collective, "\"; try all_reduce"});
    if (plan.csv) {
      print_csv(plan, subjects);
    } else if (plan.chosen) {
      return print_chosen(plan, subjects) ? 0 : 1;
    } else if (plan.best) {
      print_best(plan, subjects);
    } else {
      print_tables(plan, subjects);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
