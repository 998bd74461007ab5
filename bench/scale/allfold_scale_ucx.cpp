// SPDX-License-Identifier: Apache-2.0

/// Times every algorithm over messages between processes of this machine, through UCX: what the simulated network is
/// checked against, and what the thresholds of few ranks rest on. All of them take turns, round after round, so that
/// what else the machine does falls on all alike. docs/scaling.md has tables made from what it prints.
///
///   allfold_scale_ucx RANKS [--seconds S] [--bytes N,N,..] [--collective NAME]     UCX_TLS is tcp unless it is set
///   allfold_scale_ucx create RANKS                                                 what a communicator of so many
///   costs

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <allfold/base/concat.hpp>
#include <allfold/memory/host_identity.hpp>
#include <allfold/rendezvous.hpp>
#include <allfold/spawn.hpp>
#include <allfold/store/tcp.hpp>
#include <allfold/transport/ucx_endpoint.hpp>
#include <allfold/ucx.hpp>

#include "subjects.hpp"

namespace {

namespace message = allfold::message;
using allfold::UcxEndpoint;

struct Plan {
  int ranks = 2;
  double seconds = 30;
  std::string_view collective;  ///< empty: all
  std::vector<std::size_t> bytes = {8,     256,   1024,   2048,   4096,    8192,    16384,
                                    32768, 65536, 131072, 262144, 1048576, 4194304, 16777216};
};

double us_since(allfold::Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(allfold::Clock::now() - begin).count();
}

/// One rank and its calls.
class Rank {
 public:
  explicit Rank(const allfold::Environment& environment)
      : deadline_(allfold::Deadline::after(std::chrono::minutes(5))),
        store_(allfold::TcpStore::connect(environment, deadline_)),
        gather_(store_, environment.job, allfold::Where("create", environment.rank, environment.world_size),
                environment.rank, environment.world_size, deadline_),
        meeting_("create", environment.rank, environment.world_size, deadline_, gather_),
        worker_(meeting_, false),
        link_(worker_, meeting_, meeting_.all_gather("identities", allfold::host_identity()), {}) {}

  int rank() const { return link_.rank(); }
  int world_size() const { return link_.world_size(); }

  template <class Body>
  void run(Body&& body) {
    UcxEndpoint e(link_, allfold::CollectiveId{.operation = "bench", .sequence = sequence_++});
    allfold::Task<bool> task = body(e);
    e.drive(task, deadline_);
  }
  void barrier() {
    run([](UcxEndpoint& e) { return message::barrier_dissemination(e); });
  }
  /// What rank 0 says.
  int agreed(int value) {
    run([&](UcxEndpoint& e) { return message::broadcast_knomial(e, &value, sizeof value, 0); });
    return value;
  }

  /// Of a call, in a batch back to back. A root may be ahead of the others: the batch ends when all are through.
  double time_us(const scale::Subject<UcxEndpoint>& subject, std::size_t bytes, int calls) {
    const std::size_t room = scale::room_bytes(bytes, world_size());
    in_.resize(room / sizeof(float) + 1, 1.0F);
    out_.resize(in_.size(), 2.0F);
    barrier();
    const auto begin = allfold::Clock::now();
    for (int i = 0; i < calls; ++i) {
      run([&](UcxEndpoint& e) { return subject.run(e, in_.data(), out_.data(), bytes); });
    }
    barrier();
    return us_since(begin) / calls;
  }

 private:
  allfold::Deadline deadline_;
  allfold::TcpStore store_;
  allfold::StoreGather gather_;
  allfold::Meeting meeting_;
  allfold::UcxWorker worker_;
  allfold::UcxLink link_;
  std::uint32_t sequence_ = 0;
  std::vector<float> in_, out_;
};

/// One algorithm at one size.
struct Cell {
  const scale::Subject<UcxEndpoint>* subject;
  std::size_t bytes;
  int calls = 1;
  std::vector<double> times_us{};
};

void measure(const Plan& plan, const allfold::Environment& environment) {
  Rank rank(environment);
  const auto subjects = scale::all_subjects<UcxEndpoint>();
  std::vector<Cell> cells;
  for (const auto& subject : subjects) {
    if (!plan.collective.empty() && plan.collective != subject.collective) continue;
    for (const std::size_t bytes : plan.bytes) {
      if (subject.collective == "barrier" && bytes != plan.bytes.front()) continue;
      cells.push_back({&subject, bytes});
    }
  }
  const auto begin = allfold::Clock::now();
  const auto batch_us = [&] { return plan.seconds * 1e6 / static_cast<double>(cells.size()) / 12; };
  for (Cell& cell : cells) {
    rank.time_us(*cell.subject, cell.bytes, 1);
    const double once_us = rank.time_us(*cell.subject, cell.bytes, 2);
    cell.calls = rank.agreed(static_cast<int>(std::clamp(batch_us() / once_us, 1.0, 2000.0)));
  }
  for (int rounds = 0; rank.agreed(rounds < 3 || us_since(begin) < plan.seconds * 1e6 ? 1 : 0) == 1; ++rounds) {
    for (Cell& cell : cells) cell.times_us.push_back(rank.time_us(*cell.subject, cell.bytes, cell.calls));
  }
  if (rank.rank() != 0) return;
  for (Cell& cell : cells) {
    std::sort(cell.times_us.begin(), cell.times_us.end());
    const std::size_t rounds = cell.times_us.size();
    std::printf("%d,%s,%s,%zu,%.2f,%.2f,%.2f,%zu,%d\n", plan.ranks, cell.subject->collective.c_str(),
                cell.subject->algorithm.c_str(), cell.bytes, cell.times_us[rounds / 2], cell.times_us[0],
                cell.times_us[rounds - 1], rounds, cell.calls);
  }
  std::fflush(stdout);
}

void create(const allfold::Environment& environment) {
  using Comm = allfold::Communicator<allfold::UcxTransport>;
  const auto begin = allfold::Clock::now();
  Comm comm = Comm::create(environment, allfold::Options{.rendezvous_timeout = std::chrono::minutes(3)});
  const double create_us = us_since(begin);
  const auto first = allfold::Clock::now();
  comm.barrier();
  const double barrier_us = us_since(first);
  std::vector<int> to_all(static_cast<std::size_t>(comm.world_size()), comm.rank()), from_all(to_all.size());
  const auto second = allfold::Clock::now();
  comm.all_to_all(to_all, from_all);
  const double all_to_all_us = us_since(second);
  for (std::size_t r = 0; r < from_all.size(); ++r) {
    if (from_all[r] != static_cast<int>(r)) throw std::runtime_error("all_to_all: a wrong result");
  }
  if (comm.rank() == 0) {
    std::printf("%d,%.1f,%.1f,%.1f,%zu\n", comm.world_size(), create_us / 1e3, barrier_us / 1e3, all_to_all_us / 1e3,
                allfold::detail::open_files());
    std::fflush(stdout);
  }
  comm.barrier();
}

Plan parse(int argc, char** argv) {
  Plan plan;
  plan.ranks = std::atoi(argv[1]);
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string_view option = argv[i];
    if (option == "--seconds") {
      plan.seconds = std::atof(argv[i + 1]);
    } else if (option == "--collective") {
      plan.collective = argv[i + 1];
    } else if (option == "--bytes") {
      plan.bytes.clear();
      for (char* at = argv[i + 1]; *at != '\0'; at += *at == ',') {
        char* end = at;
        plan.bytes.push_back(std::strtoull(at, &end, 10));
        if (end == at) throw std::runtime_error("allfold_scale_ucx: --bytes expects numbers with commas between them");
        at = end;
      }
    } else {
      throw std::runtime_error(allfold::concat(
          {"allfold_scale_ucx: unknown option \"", option, "\"; expected --seconds, --bytes or --collective"}));
    }
  }
  return plan;
}

}  // namespace

int main(int argc, char** argv) try {
  ::setenv("UCX_TLS", "tcp", 0);
  if (argc < 2) throw std::runtime_error("allfold_scale_ucx: expected the number of ranks, or create and that number");
  if (std::string_view(argv[1]) == "create") {
    if (argc < 3) throw std::runtime_error("allfold_scale_ucx: create: expected the number of ranks");
    allfold::launch(std::atoi(argv[2]), create, {.timeout = std::chrono::minutes(4)});
    return 0;
  }
  const Plan plan = parse(argc, argv);
  std::printf("ranks,collective,algorithm,bytes,median_us,min_us,max_us,rounds,calls\n");
  allfold::launch(plan.ranks, [&](const allfold::Environment& environment) { measure(plan, environment); },
                  {.timeout = std::chrono::minutes(5)});
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
