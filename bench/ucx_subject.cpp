// SPDX-License-Identifier: Apache-2.0

#include "ucx_subject.hpp"

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <ucp/api/ucp.h>

#include <allfold/ucx.hpp>

#include "operands.hpp"
#include "tcp_ceiling.hpp"

namespace bench {

const bool built_with_ucx = true;

namespace {

using Calls = allfold::Communicator<allfold::UcxTransport>;

/// Collectives of one element type and one operator.
template <class T, class Op>
class UcxSubject final : public Subject {
 public:
  UcxSubject(const allfold::Environment& environment, const Plan& plan, Comm& comm, allfold::TcpStore& store, Op op)
      : plan_(plan),
        op_(op),
        calls_(Calls::create(environment, store)),
        socket_(comm),
        in_(room(&in_count)),
        out_(room(&out_count)) {}

  std::string name() const override { return "allfold"; }
  std::string about() const override {
    return fmt::format("UCX {}, UCX_TLS={}", ::ucp_get_version_string(), std::getenv("UCX_TLS"));
  }

  std::unique_ptr<Trial> trial(const Case& c, std::size_t count) override {
    return std::make_unique<UcxTrial>(*this, c.collective, count);
  }

  Ceiling ceiling(std::size_t bytes) override { return {.tcp_us = socket_.one_way_us(out_.data(), bytes)}; }

 private:
  class UcxTrial final : public Trial {
   public:
    UcxTrial(UcxSubject& subject, Collective collective, std::size_t count)
        : subject_(subject),
          collective_(collective),
          count_(count),
          motion_name_(subject.motion_name(collective, count)) {}

    std::string algorithm_name() const override { return std::string(motion_name_); }

    bool start() override {
      subject_.fill(collective_, count_);
      bool correct = true;
      if (subject_.plan_.check) {
        run(1);
        correct = subject_.correct(collective_, count_);
      }
      if (subject_.plan_.in_place) std::fill_n(subject_.out_.data(), count_, from_float<T>(0.0F));
      return correct;
    }

    std::vector<Sample> turn(const Turn& turn) override {
      run(turn.warmup);
      std::vector<Sample> samples;
      for (int batch = 0; batch < turn.batches; ++batch) {
        subject_.calls_.barrier();
        const double us = time_us([&] { run(turn.calls); });
        samples.push_back({.us = us / static_cast<double>(turn.calls)});
      }
      return samples;
    }

    bool verify() override {
      // In place, the operands are gone.
      return !subject_.plan_.check || subject_.plan_.in_place || subject_.correct(collective_, count_);
    }

   private:
    void run(long calls) {
      for (long i = 0; i < calls; ++i) subject_.call(collective_, count_);
    }

    UcxSubject& subject_;
    Collective collective_;
    std::size_t count_;
    std::string_view motion_name_;
  };

  /// What the communicator's selector chooses.
  std::string_view motion_name(Collective collective, std::size_t count) const {
    const allfold::MessageReduction r = allfold::host_reduction(allfold::Reduction<Op, T>{op_});
    const std::size_t whole =
        std::max(in_count(collective, count, calls_.world_size()), out_count(collective, count, calls_.world_size()));
    const allfold::MessageQuery query{.bytes = whole * sizeof(T),
                                      .world_size = calls_.world_size(),
                                      .reproducible = true,
                                      .commutes = r.commutes,
                                      .widens = r.partial_bytes > r.value_bytes};
    const allfold::MessageThresholds choose;
    switch (collective) {
      case Collective::all_reduce: return allfold::name(choose.all_reduce(query));
      case Collective::all_gather: return allfold::name(choose.all_gather(query));
      case Collective::reduce_scatter: return allfold::name(choose.reduce_scatter(query));
      case Collective::all_to_all: return allfold::name(choose.all_to_all(query));
      case Collective::broadcast: break;
    }
    return allfold::name(choose.broadcast(query));
  }

  void call(Collective collective, std::size_t count) {
    const auto ranks = static_cast<std::size_t>(calls_.world_size());
    const auto me = static_cast<std::size_t>(calls_.rank());
    T* const data = out_.data();
    const auto input = [&](std::size_t at, std::size_t n) {
      return std::span<const T>(plan_.in_place ? data + at : in_.data(), n);
    };
    switch (collective) {
      case Collective::all_reduce: calls_.all_reduce(input(0, count), std::span<T>(data, count), op_); return;
      case Collective::all_gather:
        calls_.all_gather(input(me * count, count), std::span<T>(data, ranks * count));
        return;
      case Collective::reduce_scatter: {
        const allfold::Range mine = parts(count).of(calls_.rank());
        const std::span<T> out(plan_.in_place ? data + mine.begin : data, mine.size());
        if (count % ranks == 0) {
          calls_.reduce_scatter(input(0, count), out, op_);
        } else {
          std::vector<std::size_t> counts;
          for (int r = 0; r < calls_.world_size(); ++r) counts.push_back(parts(count).size_of(r));
          calls_.reduce_scatter_v(input(0, count), out, op_, counts);
        }
        return;
      }
      case Collective::all_to_all:
        calls_.all_to_all(input(0, ranks * count), std::span<T>(data, ranks * count));
        return;
      case Collective::broadcast: break;
    }
    calls_.broadcast(std::span<T>(data, count), {.root = root});
  }

  /// Writes operands whose result is known, and spoils the output.
  void fill(Collective collective, std::size_t count) {
    std::fill_n(out_.data(), out_count(collective, count, calls_.world_size()), from_float<T>(-77.0F));
    T* const source = plan_.in_place || collective == Collective::broadcast ? out_.data() : in_.data();
    if (collective == Collective::broadcast && calls_.rank() != root) return;
    const std::size_t n = in_count(collective, count, calls_.world_size());
    for (std::size_t i = 0; i < n; ++i) source[i] = operand<T>(calls_.rank(), i, true);
  }

  /// Whether the output of calls after fill() has the expected bits.
  bool correct(Collective collective, std::size_t count) const {
    const auto folded = [this](std::size_t i) { return folded_operand<T>(op_, calls_.world_size(), i, true); };
    const auto holds = [this](std::size_t at, std::size_t n, const auto& expected) {
      for (std::size_t i = 0; i < n; ++i) {
        if (bits(out_.data()[at + i]) != bits(expected(i))) return false;
      }
      return true;
    };
    switch (collective) {
      case Collective::all_reduce: return holds(0, count, folded);
      case Collective::reduce_scatter: {
        const allfold::Range mine = parts(count).of(calls_.rank());
        return holds(0, mine.size(), [&](std::size_t i) { return folded(mine.begin + i); });
      }
      case Collective::broadcast: return holds(0, count, [](std::size_t i) { return operand<T>(root, i, true); });
      default: break;
    }
    const std::size_t block = collective == Collective::all_to_all ? static_cast<std::size_t>(calls_.rank()) : 0;
    for (int source = 0; source < calls_.world_size(); ++source) {
      const auto theirs = [&](std::size_t i) { return operand<T>(source, block * count + i, true); };
      if (!holds(static_cast<std::size_t>(source) * count, count, theirs)) return false;
    }
    return true;
  }

  allfold::Parts parts(std::size_t count) const { return allfold::Parts::even(count, calls_.world_size(), 1); }

  /// Elements that the largest call of the plan needs.
  std::size_t room(std::size_t (*count_of)(Collective, std::size_t, int)) const {
    std::size_t most = 1;
    for (const Collective collective : plan_.collectives) {
      most = std::max(most, count_of(collective, plan_.max_bytes / sizeof(T), plan_.world_size()));
    }
    return most;
  }

  static constexpr int root = 0;

  const Plan& plan_;
  Op op_;
  Calls calls_;
  TcpPair socket_;
  PrivateMemory<T> in_;
  PrivateMemory<T> out_;
};

}  // namespace

std::unique_ptr<Subject> make_ucx_subject(const allfold::Environment& environment, const Plan& plan, Comm& comm,
                                          allfold::TcpStore& store) {
  ::setenv("UCX_TLS", "tcp", 0);
  return for_elements(plan, [&]<class T, class Op>(T, Op op) -> std::unique_ptr<Subject> {
    return std::make_unique<UcxSubject<T, Op>>(environment, plan, comm, store, op);
  });
}

}  // namespace bench
