// SPDX-License-Identifier: Apache-2.0

#include "sweep.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "ceiling.hpp"
#include "subject.hpp"

namespace bench {
namespace {

class Sweep {
 public:
  Sweep(Comm& comm, const Plan& plan, Turns& turns, Report* report)
      : comm_(comm), plan_(plan), turns_(turns), report_(report), subject_(make_subject(comm, plan)) {}

  void run() {
    for (const std::size_t bytes : plan_.sizes()) run_size(bytes);
  }

 private:
  struct Contestant {
    Case how;
    allfold::Algorithm algorithm = allfold::Algorithm::none;
    bool correct = true;
    long iterations = 1;
    std::vector<double> us{};  ///< of each batch
  };
  struct PeerContestant {
    long iterations = 0;  ///< 0: it cannot run this
    std::vector<double> us{};
  };

  void run_size(std::size_t bytes);
  std::vector<Contestant> contestants(std::size_t count);
  std::vector<PeerContestant> peer_contestants(std::size_t count);
  bool check(const Case& how, std::size_t count);
  Ceiling ceiling(std::size_t bytes);
  std::vector<double> turn(const Case& how, std::size_t count, long iterations, int batches);
  PeerReply peer_turn(std::size_t peer, std::size_t count, long iterations, int batches);
  void report(std::size_t bytes, const std::vector<Contestant>& cases, const std::vector<PeerContestant>& peers,
              Ceiling ceiling);

  int warmup(long iterations) const;
  template <class Turn>
  long calibrate(Turn&& turn) const;
  /// The slowest rank's of each. Collective.
  std::vector<double> slowest(std::vector<double> us);

  Comm& comm_;
  const Plan& plan_;
  Turns& turns_;
  Report* report_;
  std::unique_ptr<Subject> subject_;
};

void Sweep::run_size(std::size_t bytes) {
  const std::size_t count = bytes / plan_.element_bytes();
  const Ceiling limit = ceiling(bytes);
  std::vector<Contestant> cases = contestants(count);
  std::vector<PeerContestant> peers = peer_contestants(count);
  for (int round = 0; round < plan_.rounds; ++round) {
    for (Contestant& c : cases) {
      const std::vector<double> us = turn(c.how, count, c.iterations, plan_.batches);
      c.us.insert(c.us.end(), us.begin(), us.end());
    }
    if (peers.empty()) continue;
    turns_.alone(comm_.rank(), [&] {
      for (std::size_t i = 0; i < peers.size(); ++i) {
        if (peers[i].iterations == 0) continue;
        const PeerReply reply = peer_turn(i, count, peers[i].iterations, plan_.batches);
        peers[i].us.insert(peers[i].us.end(), reply.us, reply.us + reply.batches);
      }
    });
  }
  for (Contestant& c : cases) {
    c.us = slowest(std::move(c.us));
    // What back-to-back calls left behind; in place, the operands are gone.
    if (plan_.check && !plan_.in_place && !subject_->verify(c.how, count)) c.correct = false;
    c.correct = slowest({c.correct ? 0.0 : 1.0})[0] == 0.0;
  }
  report(bytes, cases, peers, limit);
}

std::vector<Sweep::Contestant> Sweep::contestants(std::size_t count) {
  std::vector<Contestant> cases;
  for (const Buffers buffers : plan_.buffers) {
    std::vector<Case> hows;
    for (const allfold::Algorithm algorithm : plan_.algorithms) hows.push_back({buffers, algorithm});
    if (hows.empty()) hows.push_back({buffers, std::nullopt});
    for (const Case& how : hows) {
      const std::optional<allfold::Algorithm> algorithm = subject_->algorithm(how, count);
      if (!algorithm) continue;
      subject_->fill(how, count);
      Contestant c{.how = how, .algorithm = *algorithm, .correct = !plan_.check || check(how, count)};
      subject_->settle(how, count);
      c.iterations = calibrate([&](long iterations) { return slowest(turn(how, count, iterations, 1))[0]; });
      cases.push_back(std::move(c));
    }
  }
  return cases;
}

std::vector<Sweep::PeerContestant> Sweep::peer_contestants(std::size_t count) {
  std::vector<PeerContestant> peers(turns_.peer_count());
  if (peers.empty() || !Peer::can_run(plan_.type, plan_.op)) return peers;
  turns_.alone(comm_.rank(), [&] {
    for (std::size_t i = 0; i < peers.size(); ++i) {
      peers[i].iterations = calibrate([&](long iterations) { return peer_turn(i, count, iterations, 1).us[0]; });
    }
  });
  return peers;
}

bool Sweep::check(const Case& how, std::size_t count) {
  subject_->run(how, count, 1);
  return subject_->verify(how, count);
}

Ceiling Sweep::ceiling(std::size_t bytes) {
  const auto [from, to] = subject_->scratch();
  comm_.barrier();
  const double copy = copy_us(to, from, bytes);
  comm_.barrier();
  const double add = add_us(to, from, bytes);
  const std::vector<double> us = slowest({copy, add});
  const auto gbs = [&](double t) { return static_cast<double>(bytes) / t * 1e-3; };
  return {.copy_gbs = gbs(us[0]), .add_gbs = gbs(us[1])};
}

std::vector<double> Sweep::turn(const Case& how, std::size_t count, long iterations, int batches) {
  subject_->run(how, count, warmup(iterations));
  std::vector<double> means;
  for (int batch = 0; batch < batches; ++batch) {
    comm_.barrier();
    means.push_back(time_us([&] { subject_->run(how, count, iterations); }) / static_cast<double>(iterations));
  }
  return means;
}

PeerReply Sweep::peer_turn(std::size_t peer, std::size_t count, long iterations, int batches) {
  return turns_.peer(peer).run({.verb = PeerCommand::Verb::run,
                                .type = plan_.type,
                                .op = plan_.op,
                                .in_place = plan_.in_place,
                                .batches = batches,
                                .warmup = warmup(iterations),
                                .iterations = iterations,
                                .count = static_cast<std::int64_t>(count)});
}

void Sweep::report(std::size_t bytes, const std::vector<Contestant>& cases, const std::vector<PeerContestant>& peers,
                   Ceiling ceiling) {
  if (report_ == nullptr) return;
  std::vector<PeerTime> times;
  for (std::size_t i = 0; i < peers.size(); ++i) times.push_back({turns_.peer(i).name(), median(peers[i].us)});
  for (const Contestant& c : cases) {
    const auto [least, most] = std::minmax_element(c.us.begin(), c.us.end());
    report_->add({.bytes = bytes,
                  .count = bytes / plan_.element_bytes(),
                  .buffers = c.how.buffers,
                  .algorithm = c.algorithm,
                  .chosen = !c.how.algorithm,
                  .us = median(c.us),
                  .min_us = *least,
                  .max_us = *most,
                  .checked = plan_.check,
                  .correct = c.correct,
                  .ceiling = ceiling,
                  .peers = times});
  }
}

int Sweep::warmup(long iterations) const {
  return plan_.warmup ? *plan_.warmup : static_cast<int>(std::clamp(iterations / 10, 2L, 1000L));
}

/// Calls of one batch, so that a row's batches fill its budget. `turn` runs so many calls and returns the mean time.
template <class Turn>
long Sweep::calibrate(Turn&& turn) const {
  if (plan_.iterations) return *plan_.iterations;
  const auto fitting = [](double budget_us, double us) {
    return std::clamp(static_cast<long>(budget_us / std::max(us, 0.001)), 1L, 1'000'000L);
  };
  const double first = turn(3);
  const double us = first > 1000 ? first : turn(fitting(2000, first));
  return fitting(plan_.budget_ms * 1000 / (plan_.rounds * plan_.batches), us);
}

std::vector<double> Sweep::slowest(std::vector<double> us) {
  comm_.all_reduce(us, allfold::max);
  return us;
}

}  // namespace

void sweep(const allfold::Environment& environment, const Plan& plan, Turns& turns, Report* report) {
  pin(environment.local_rank, plan.cores);
  auto comm = Comm::create(environment);
  Sweep(comm, plan, turns, report).run();
}

}  // namespace bench
