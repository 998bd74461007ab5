// SPDX-License-Identifier: Apache-2.0

#include "sweep.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/field.hpp"
#include "host_subject.hpp"
#include "mpi_subject.hpp"
#include "ucx_subject.hpp"

namespace bench {
namespace {

class Sweep {
 public:
  Sweep(Comm& comm, const Plan& plan, Field field, Report* report)
      : comm_(comm), plan_(plan), field_(std::move(field)), report_(report) {}

  void run() {
    if (report_ != nullptr) report_->print_head(field_);
    for (const Collective collective : plan_.collectives) {
      for (const std::size_t bytes : plan_.sizes()) {
        if (slowest({plan_.deadline.expired() ? 1.0 : 0.0})[0] > 0) {
          if (report_ != nullptr) report_->stop(bytes);
          return;
        }
        run_size(collective, bytes);
      }
    }
  }

 private:
  struct Contestant {
    Case how;
    std::unique_ptr<Trial> trial;  ///< null: it cannot run this
    bool correct = true;
    long calls = 1;                      ///< of one batch
    std::vector<double> us{}, cpu_us{};  ///< of each batch
  };

  void run_size(Collective collective, std::size_t bytes);
  std::vector<Contestant> contestants(Collective collective, std::size_t count);
  /// The peers' in each mode of the plan, in the order of the plan.
  std::vector<Contestant> peer_contestants(Collective collective, std::size_t count);
  Contestant contestant(Subject& subject, const Case& how, std::size_t count);
  /// One turn; the last also says whether repeated calls leave the right result.
  void play(Contestant& c, bool last);
  void finish(Contestant& c);
  void report(std::size_t bytes, const Contestant& c, const std::vector<Contestant>& peers, Ceiling ceiling);

  int warmup(long calls) const;
  /// Calls of one batch, so that a row's batches fill its budget.
  long calibrate(Trial& trial);
  /// The slowest rank's of each. Collective.
  std::vector<double> slowest(std::vector<double> us) { return most_of(comm_, std::move(us)); }

  Comm& comm_;
  const Plan& plan_;
  Field field_;
  Report* report_;
};

void Sweep::run_size(Collective collective, std::size_t bytes) {
  const std::size_t count = bytes / plan_.element_bytes();
  const Ceiling ceiling = field_.own->ceiling(bytes);
  std::vector<Contestant> cases = contestants(collective, count);
  std::vector<Contestant> peers = peer_contestants(collective, count);
  for (int round = 1; round <= plan_.rounds; ++round) {
    for (Contestant& c : cases) play(c, round == plan_.rounds);
    for (Contestant& peer : peers) play(peer, round == plan_.rounds);
  }
  for (Contestant& c : cases) finish(c);
  for (std::size_t i = 0; i < peers.size(); ++i) {
    finish(peers[i]);
    if (peers[i].correct) continue;
    throw std::runtime_error("allfold_perf: " + plan_.peers[i % plan_.peers.size()] + " gave a wrong result");
  }
  for (const Contestant& c : cases) report(bytes, c, peers, ceiling);
}

std::vector<Sweep::Contestant> Sweep::contestants(Collective collective, std::size_t count) {
  std::vector<Contestant> cases;
  for (const Mode mode : plan_.modes) {
    for (const Buffers buffers : plan_.buffers) {
      std::vector<Case> hows;
      for (const allfold::Algorithm algorithm : plan_.algorithms) {
        hows.push_back({mode, buffers, algorithm, collective});
      }
      if (hows.empty()) hows.push_back({mode, buffers, std::nullopt, collective});
      for (const Case& how : hows) {
        Contestant c = contestant(*field_.own, how, count);
        if (c.trial) cases.push_back(std::move(c));
      }
    }
  }
  return cases;
}

std::vector<Sweep::Contestant> Sweep::peer_contestants(Collective collective, std::size_t count) {
  std::vector<Contestant> peers;
  for (const Mode mode : plan_.modes) {
    for (const std::unique_ptr<Subject>& peer : field_.peers) {
      peers.push_back(contestant(*peer, {.mode = mode, .collective = collective}, count));
    }
  }
  return peers;
}

Sweep::Contestant Sweep::contestant(Subject& subject, const Case& how, std::size_t count) {
  Contestant c{.how = how, .trial = subject.absent().empty() ? subject.trial(how, count) : nullptr};
  if (!c.trial) return c;
  c.correct = c.trial->start();
  c.calls = calibrate(*c.trial);
  return c;
}

void Sweep::play(Contestant& c, bool last) {
  if (!c.trial) return;
  for (const Sample& sample : c.trial->turn({warmup(c.calls), c.calls, plan_.batches})) {
    c.us.push_back(sample.us);
    c.cpu_us.push_back(sample.cpu_us);
  }
  if (last && !c.trial->verify()) c.correct = false;
}

void Sweep::finish(Contestant& c) {
  if (!c.trial) return;
  c.us = slowest(std::move(c.us));
  c.cpu_us = slowest(std::move(c.cpu_us));
  c.correct = slowest({c.correct ? 0.0 : 1.0})[0] == 0.0;
}

void Sweep::report(std::size_t bytes, const Contestant& c, const std::vector<Contestant>& peers, Ceiling ceiling) {
  if (report_ == nullptr) return;
  std::vector<PeerTime> times;
  for (const Contestant& peer : peers) {
    if (peer.how.mode != c.how.mode) continue;
    const double least = peer.us.empty() ? 0 : *std::min_element(peer.us.begin(), peer.us.end());
    times.push_back({.us = median(peer.us), .min_us = least, .cpu_us = median(peer.cpu_us)});
  }
  const auto [least, most] = std::minmax_element(c.us.begin(), c.us.end());
  report_->add({.collective = c.how.collective,
                .bytes = bytes,
                .count = bytes / plan_.element_bytes(),
                .mode = c.how.mode,
                .buffers = c.how.buffers,
                .algorithm = c.trial->algorithm(),
                .algorithm_name = c.trial->algorithm_name(),
                .chosen = !c.how.algorithm,
                .us = median(c.us),
                .min_us = *least,
                .max_us = *most,
                .cpu_us = median(c.cpu_us),
                .checked = plan_.check,
                .correct = c.correct,
                .ceiling = ceiling,
                .peers = std::move(times)});
}

int Sweep::warmup(long calls) const {
  return plan_.warmup ? *plan_.warmup : static_cast<int>(std::clamp(calls / 10, 2L, 1000L));
}

long Sweep::calibrate(Trial& trial) {
  if (plan_.iterations) return *plan_.iterations;
  const auto time = [&](long calls) { return slowest({trial.turn({warmup(calls), calls, 1})[0].us})[0]; };
  const auto fitting = [](double budget_us, double us) {
    return std::clamp(static_cast<long>(budget_us / std::max(us, 0.001)), 1L, 1'000'000L);
  };
  const double first = time(3);
  const double us = first > 1000 ? first : time(fitting(2000, first));
  return fitting(plan_.budget_ms * 1000 / (plan_.rounds * plan_.batches), us);
}

Field host_field(const allfold::Environment& environment, const Plan& plan, Comm& comm, allfold::TcpStore& store,
                 Turns& turns) {
  const bool ucx = plan.transport == Transport::ucx;
  Field field{.own = ucx ? make_ucx_subject(environment, plan, comm, store) : make_host_subject(comm, plan),
              .peers = {}};
  for (std::size_t i = 0; i < turns.peer_count(); ++i) {
    field.peers.push_back(std::make_unique<MpiSubject>(turns, i, plan, comm.rank()));
  }
  return field;
}

}  // namespace

void sweep(const allfold::Environment& environment, const Plan& plan, Turns& turns, Report* report) {
  if (plan.device == Device::host) pin(environment.local_rank, plan.cores);
  auto store = allfold::TcpStore::connect(environment, plan.deadline);
  auto comm =
      Comm::create(environment, store, plan.device == Device::host ? selector_of(plan) : allfold::TunedSelector());
  Sweep(comm, plan,
        plan.device == Device::host ? host_field(environment, plan, comm, store, turns)
                                    : cuda_field(environment, plan, comm, store),
        report)
      .run();
}

}  // namespace bench
