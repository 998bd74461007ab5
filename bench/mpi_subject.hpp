// SPDX-License-Identifier: Apache-2.0
#pragma once

/// An MPI peer as a contestant: rank 0 drives it while the other ranks sleep.

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "subject.hpp"
#include "turns.hpp"

namespace bench {

class MpiSubject final : public Subject {
 public:
  MpiSubject(Turns& turns, std::size_t index, const Plan& plan, int rank)
      : turns_(turns), index_(index), plan_(plan), rank_(rank) {}

  std::string name() const override { return turns_.peer(index_).name(); }

  std::unique_ptr<Trial> trial(const Case& c, std::size_t count) override {
    if (!Peer::can_run(plan_.type, plan_.op)) return nullptr;
    return std::make_unique<MpiTrial>(*this, c.collective, count);
  }

 private:
  class MpiTrial final : public Trial {
   public:
    MpiTrial(MpiSubject& subject, Collective collective, std::size_t count)
        : subject_(subject), collective_(collective), count_(count) {}

    bool start() override { return true; }  // it compares its own first call of each size

    std::vector<Sample> turn(const Turn& turn) override {
      std::vector<Sample> samples(static_cast<std::size_t>(turn.batches));
      subject_.turns_.alone(subject_.rank_, [&] {
        const PeerReply reply = subject_.turns_.peer(subject_.index_)
                                    .run({.verb = PeerCommand::Verb::run,
                                          .type = subject_.plan_.type,
                                          .op = subject_.plan_.op,
                                          .collective = collective_,
                                          .in_place = subject_.plan_.in_place,
                                          .batches = turn.batches,
                                          .warmup = turn.warmup,
                                          .iterations = turn.calls,
                                          .count = static_cast<std::int64_t>(count_)});
        for (std::size_t i = 0; i < samples.size(); ++i) samples[i].us = reply.us[i];
      });
      return samples;
    }

   private:
    MpiSubject& subject_;
    Collective collective_;
    std::size_t count_;
  };

  Turns& turns_;
  std::size_t index_;
  const Plan& plan_;
  int rank_;
};

}  // namespace bench
