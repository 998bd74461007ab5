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

#include <allfold/algo/message/all_gather.hpp>
#include <allfold/algo/message/all_reduce.hpp>
#include <allfold/algo/message/all_to_all.hpp>
#include <allfold/algo/message/barrier.hpp>
#include <allfold/algo/message/broadcast.hpp>
#include <allfold/algo/message/reduce_scatter.hpp>
#include <allfold/exec/host_reduction.hpp>
#include <allfold/memory/host_identity.hpp>
#include <allfold/rendezvous.hpp>
#include <allfold/select/message_thresholds.hpp>
#include <allfold/transport/ucx_endpoint.hpp>

#include "operands.hpp"
#include "tcp_ceiling.hpp"

namespace bench {

const bool built_with_ucx = true;

namespace {

namespace message = allfold::message;

/// How this rank reaches the others, and the calls it makes there. It stands for the communicator, which does not have
/// this transport yet.
class UcxCalls {
 public:
  UcxCalls(const allfold::Environment& environment, const Plan& plan, allfold::TcpStore& store)
      : gather_(store, environment.job + ".ucx", allfold::Where("create", environment.rank, environment.world_size),
                environment.rank, environment.world_size, plan.deadline),
        meeting_("create", environment.rank, environment.world_size, plan.deadline, gather_),
        link_(meeting_, meeting_.all_gather("identities", allfold::host_identity()), {}) {}

  int rank() const { return link_.rank(); }
  int world_size() const { return link_.world_size(); }

  template <class Body>
  void run(const char* operation, const Body& body) {
    allfold::UcxEndpoint e(link_, {.operation = operation, .sequence = sequence_++});
    allfold::Task<bool> task = body(e);
    e.drive(task, allfold::Deadline::after(std::chrono::seconds(30)));
  }

  void barrier() {
    run("barrier", [](allfold::UcxEndpoint& e) { return message::barrier_dissemination(e); });
  }

 private:
  allfold::StoreGather gather_;
  allfold::Meeting meeting_;
  allfold::UcxLink link_;
  std::uint32_t sequence_ = 0;
};

/// An algorithm over messages: its collective's enumeration says which.
struct Motion {
  int value;
  std::string_view name;
};

/// Collectives of one element type and one operator.
template <class T, class Op>
class UcxSubject final : public Subject {
 public:
  UcxSubject(const allfold::Environment& environment, const Plan& plan, Comm& comm, allfold::TcpStore& store, Op op)
      : plan_(plan),
        op_(op),
        reduction_{op},
        calls_(environment, plan, store),
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
        : subject_(subject), collective_(collective), count_(count), motion_(subject.motion(collective, count)) {}

    std::string algorithm_name() const override { return std::string(motion_.name); }

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
      for (long i = 0; i < calls; ++i) {
        subject_.calls_.run(bench::name(collective_), [this](allfold::UcxEndpoint& e) {
          return subject_.call(e, collective_, motion_.value, count_);
        });
      }
    }

    UcxSubject& subject_;
    Collective collective_;
    std::size_t count_;
    Motion motion_;
  };

  /// What MessageThresholds chooses.
  Motion motion(Collective collective, std::size_t count) const {
    const allfold::MessageReduction r = allfold::host_reduction(reduction_);
    const std::size_t whole =
        std::max(in_count(collective, count, calls_.world_size()), out_count(collective, count, calls_.world_size()));
    const allfold::MessageQuery query{.bytes = whole * sizeof(T),
                                      .world_size = calls_.world_size(),
                                      .commutes = r.commutes,
                                      .widens = r.partial_bytes > r.value_bytes};
    const auto of = [](auto motion) { return Motion{static_cast<int>(motion), allfold::name(motion)}; };
    const allfold::MessageThresholds choose;
    switch (collective) {
      case Collective::all_reduce: return of(choose.all_reduce(query));
      case Collective::all_gather: return of(choose.all_gather(query));
      case Collective::reduce_scatter: return of(choose.reduce_scatter(query));
      case Collective::all_to_all: return of(choose.all_to_all(query));
      case Collective::broadcast: break;
    }
    return of(choose.broadcast(query));
  }

  allfold::Task<bool> call(allfold::UcxEndpoint& e, Collective collective, int motion, std::size_t count) {
    const allfold::MessageReduction r = allfold::host_reduction(reduction_);
    const void* const in = plan_.in_place ? out_.data() : in_.data();
    switch (collective) {
      case Collective::all_reduce:
        return message::all_reduce(e, allfold::AllReduceMotion(motion), r, in, out_.data(), count);
      case Collective::all_gather:
        return message::all_gather(e, allfold::AllGatherMotion(motion), in, out_.data(), count * sizeof(T));
      case Collective::reduce_scatter:
        return message::reduce_scatter(e, allfold::ReduceScatterMotion(motion), r, in, out_.data(), parts(count));
      case Collective::all_to_all:
        return message::all_to_all(e, allfold::AllToAllMotion(motion), in, out_.data(), count * sizeof(T));
      case Collective::broadcast: break;
    }
    return message::broadcast(e, allfold::BroadcastMotion(motion), out_.data(), count * sizeof(T), root);
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
  allfold::Reduction<Op, T> reduction_;
  UcxCalls calls_;
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
