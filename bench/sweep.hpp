// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The measurement: every size, every case, checked and then timed in turns.

#include <cstddef>
#include <vector>

#include "report.hpp"
#include "subject.hpp"
#include "turns.hpp"

namespace bench {

class Sweep {
 public:
  /// `report` is rank 0's, null on the others.
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

}  // namespace bench
