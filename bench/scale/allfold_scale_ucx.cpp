// SPDX-License-Identifier: Apache-2.0

/// Times the algorithms over messages between processes of this machine, through UCX, beside what the simulated network
/// foretells for them: a table in docs/scaling.md.
///
///   allfold_scale_ucx [RANKS]      UCX_TLS is tcp unless it is set

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include <allfold/algo/message/all_gather.hpp>
#include <allfold/algo/message/all_reduce.hpp>
#include <allfold/algo/message/all_to_all.hpp>
#include <allfold/algo/message/barrier.hpp>
#include <allfold/algo/message/broadcast.hpp>
#include <allfold/algo/message/reduce_scatter.hpp>
#include <allfold/exec/host_reduction.hpp>
#include <allfold/exec/simulated_network.hpp>
#include <allfold/memory/host_identity.hpp>
#include <allfold/op/operators.hpp>
#include <allfold/rendezvous.hpp>
#include <allfold/spawn.hpp>
#include <allfold/store/tcp.hpp>
#include <allfold/transport/ucx_endpoint.hpp>

namespace {

namespace message = allfold::message;

struct Subject {
  const char* collective;
  int motion;
  std::string_view name;
};

std::vector<Subject> subjects() {
  std::vector<Subject> all;
  const auto add = [&](const char* collective, const auto& motions) {
    for (const auto motion : motions) all.push_back({collective, static_cast<int>(motion), name(motion)});
  };
  add("all_reduce", allfold::all_reduce_motions);
  add("all_gather", allfold::all_gather_motions);
  add("reduce_scatter", allfold::reduce_scatter_motions);
  add("all_to_all", allfold::all_to_all_motions);
  add("broadcast", allfold::broadcast_motions);
  return all;
}

/// `bytes`: of a whole vector, of all ranks' parts where the collective divides it.
template <class E>
allfold::Task<bool> call(E& e, const Subject& subject, void* in, void* out, std::size_t bytes) {
  static const allfold::Reduction<allfold::Sum, float> reduction{allfold::sum};
  const allfold::MessageReduction sum = allfold::host_reduction(reduction);
  const std::size_t ranks = static_cast<std::size_t>(e.world_size());
  const std::size_t count = bytes / sizeof(float);
  const std::string_view what = subject.collective;
  if (what == "all_reduce") {
    return message::all_reduce(e, allfold::AllReduceMotion(subject.motion), sum, in, out, count);
  }
  if (what == "all_gather") {
    return message::all_gather(e, allfold::AllGatherMotion(subject.motion), in, out, bytes / ranks);
  }
  if (what == "reduce_scatter") {
    return message::reduce_scatter(e, allfold::ReduceScatterMotion(subject.motion), sum, in, out,
                                   allfold::Parts::even(count, e.world_size(), 1));
  }
  if (what == "all_to_all") {
    return message::all_to_all(e, allfold::AllToAllMotion(subject.motion), in, out, bytes / ranks);
  }
  return message::broadcast(e, allfold::BroadcastMotion(subject.motion), in, bytes, 0);
}

double foretold_us(const Subject& subject, int ranks, std::size_t bytes) {
  allfold::SimulatedNetwork network(ranks, allfold::tcp_loopback, {}, false);
  return network
      .run([&](allfold::SimulatedEndpoint& e) {
        void* const at = allfold::SimulatedNetwork::no_memory();
        return call(e, subject, at, at, bytes);
      })
      .time_us;
}

/// One rank's calls, back to back.
class Rank {
 public:
  explicit Rank(const allfold::Environment& environment)
      : deadline_(allfold::Deadline::after(std::chrono::minutes(2))),
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
    allfold::UcxEndpoint e(link_, allfold::CollectiveId{.operation = "bench", .sequence = sequence_++});
    allfold::Task<bool> task = body(e);
    e.drive(task, deadline_);
  }

  /// Of the median of some batches, a call.
  double time_us(const Subject& subject, std::size_t bytes) {
    std::vector<float> in(bytes / sizeof(float) + 1, 1.0F), out(in.size(), 2.0F);
    const int calls = bytes <= 4096 ? 500 : bytes <= 65536 ? 200 : 40;
    std::vector<double> times;
    for (int batch = 0; batch < 11; ++batch) {
      run([](allfold::UcxEndpoint& e) { return message::barrier_dissemination(e); });
      const auto begin = allfold::Clock::now();
      for (int i = 0; i < calls; ++i) {
        run([&](allfold::UcxEndpoint& e) { return call(e, subject, in.data(), out.data(), bytes); });
      }
      // A root may be ahead of the others: the batch ends when all are through.
      run([](allfold::UcxEndpoint& e) { return message::barrier_dissemination(e); });
      const std::chrono::duration<double, std::micro> took = allfold::Clock::now() - begin;
      times.push_back(took.count() / calls);
    }
    std::nth_element(times.begin(), times.begin() + 5, times.end());
    return times[5];
  }

 private:
  allfold::Deadline deadline_;
  allfold::TcpStore store_;
  allfold::StoreGather gather_;
  allfold::Meeting meeting_;
  allfold::UcxWorker worker_;
  allfold::UcxLink link_;
  std::uint32_t sequence_ = 0;
};

}  // namespace

int main(int argc, char** argv) try {
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 2;
  ::setenv("UCX_TLS", "tcp", 0);
  std::printf("%d ranks, UCX_TLS=%s, us a call: measured (foretold for TCP loopback)\n", ranks, std::getenv("UCX_TLS"));
  std::printf("| | 8 B | 1 KiB | 64 KiB | 1 MiB |\n|---|---|---|---|---|\n");
  std::fflush(stdout);
  allfold::launch(ranks,
                  [](const allfold::Environment& environment) {
                    Rank rank(environment);
                    for (const Subject& subject : subjects()) {
                      std::string row = allfold::concat({"| ", subject.collective, " ", subject.name});
                      for (const std::size_t bytes : {8U, 1024U, 65536U, 1048576U}) {
                        char text[64];
                        std::snprintf(text, sizeof text, " | %.1f (%.1f)", rank.time_us(subject, bytes),
                                      foretold_us(subject, rank.world_size(), bytes));
                        row += text;
                      }
                      if (rank.rank() == 0) std::printf("%s |\n", row.c_str());
                      std::fflush(stdout);
                    }
                  },
                  {.timeout = std::chrono::minutes(3)});
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
