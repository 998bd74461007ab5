// SPDX-License-Identifier: Apache-2.0

#include "host_subject.hpp"

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "ceiling.hpp"
#include "operands.hpp"

namespace bench {
namespace {

/// All-reduces of one element type and one operator.
template <class T, class Op>
class HostSubject final : public Subject {
 public:
  HostSubject(Comm& comm, const Plan& plan, Op op)
      : comm_(comm),
        plan_(plan),
        op_(op),
        whole_numbers_(plan.whole_numbers()),
        private_in_(plan.max_bytes / sizeof(T) + 1),
        private_out_(plan.max_bytes / sizeof(T) + 1) {
    for (const Buffers buffers : plan.buffers) {
      if (buffers != Buffers::symmetric) continue;
      symmetric_out_.emplace(comm.allocate<T>(plan.max_bytes / sizeof(T) + 1));
      if (!plan.in_place) symmetric_in_.emplace(comm.allocate<T>(plan.max_bytes / sizeof(T) + 1));
    }
  }

  std::string name() const override { return "allfold"; }

  std::unique_ptr<Trial> trial(const Case& c, std::size_t count) override {
    const std::optional<allfold::Algorithm> algorithm = algorithm_of(c, count);
    if (!algorithm) return nullptr;
    return std::make_unique<HostTrial>(*this, c, count, *algorithm);
  }

  Ceiling ceiling(std::size_t bytes) override {
    comm_.barrier();
    const double copy = copy_us(private_out_.data(), private_in_.data(), bytes);
    comm_.barrier();
    const double add = add_us(private_out_.data(), private_in_.data(), bytes);
    const std::vector<double> us = most_of(comm_, {copy, add});
    const auto gbs = [&](double t) { return static_cast<double>(bytes) / t * 1e-3; };
    return {.copy_gbs = gbs(us[0]), .add_gbs = gbs(us[1])};
  }

 private:
  class HostTrial final : public Trial {
   public:
    HostTrial(HostSubject& subject, const Case& c, std::size_t count, allfold::Algorithm algorithm)
        : subject_(subject), case_(c), count_(count), algorithm_(algorithm) {}

    allfold::Algorithm algorithm() const override { return algorithm_; }

    bool start() override {
      subject_.fill(case_, count_);
      bool correct = true;
      if (subject_.plan_.check) {
        subject_.run(case_, count_, 1);
        correct = subject_.correct(case_, count_);
      }
      subject_.settle(case_, count_);
      return correct;
    }

    std::vector<Sample> turn(const Turn& turn) override {
      subject_.run(case_, count_, turn.warmup);
      std::vector<Sample> samples;
      for (int batch = 0; batch < turn.batches; ++batch) {
        subject_.comm_.barrier();
        const double us = time_us([&] { subject_.run(case_, count_, turn.calls); });
        samples.push_back({.us = us / static_cast<double>(turn.calls)});
      }
      return samples;
    }

    bool verify() override {
      // In place, the operands are gone.
      return !subject_.plan_.check || subject_.plan_.in_place || subject_.correct(case_, count_);
    }

   private:
    HostSubject& subject_;
    Case case_;
    std::size_t count_;
    allfold::Algorithm algorithm_;
  };

  /// The algorithm that runs `c`; nothing if the one it asks for cannot.
  std::optional<allfold::Algorithm> algorithm_of(const Case& c, std::size_t count) {
    if (!c.algorithm) return comm_.would_choose(in(c, count), out(c, count));
    try {
      run(c, count, 1);
    } catch (const allfold::UsageError&) {  // thrown before anything is sent, on every rank alike
      return std::nullopt;
    }
    return c.algorithm;
  }

  /// Writes operands whose result is known, and spoils the output.
  void fill(const Case& c, std::size_t count) {
    for (T& x : out(c, count)) x = from_float<T>(-77.0F);
    std::size_t i = 0;
    for (T& x : source(c, count)) x = operand<T>(comm_.rank(), i++, whole_numbers_);
  }

  /// Whether the output of calls after fill() has the expected bits.
  bool correct(const Case& c, std::size_t count) {
    const T* const result = out(c, count).data();
    for (std::size_t i = 0; i < count; ++i) {
      if (bits(result[i]) != bits(folded_operand<T>(op_, comm_.world_size(), i, whole_numbers_))) return false;
    }
    return true;
  }

  void settle(const Case& c, std::size_t count) {
    if (!plan_.in_place) return;
    for (T& x : out(c, count)) x = from_float<T>(0.0F);
  }

  /// So many calls, back to back.
  void run(const Case& c, std::size_t count, long calls) {
    const allfold::CallOptions options{.algorithm = c.algorithm};
    const std::span<T> to = out(c, count);
    if (plan_.in_place) {
      for (long i = 0; i < calls; ++i) comm_.all_reduce(to, op_, options);
    } else {
      const std::span<const T> from = in(c, count);
      for (long i = 0; i < calls; ++i) comm_.all_reduce(from, to, op_, options);
    }
  }

  std::span<T> out(const Case& c, std::size_t count) {
    return {c.buffers == Buffers::symmetric ? symmetric_out_->data() : private_out_.data(), count};
  }
  std::span<T> source(const Case& c, std::size_t count) {
    if (plan_.in_place) return out(c, count);
    return {c.buffers == Buffers::symmetric ? symmetric_in_->data() : private_in_.data(), count};
  }
  std::span<const T> in(const Case& c, std::size_t count) { return source(c, count); }

  Comm& comm_;
  const Plan& plan_;
  Op op_;
  bool whole_numbers_;
  PrivateMemory<T> private_in_;
  PrivateMemory<T> private_out_;
  std::optional<Comm::buffer_type<T>> symmetric_in_;
  std::optional<Comm::buffer_type<T>> symmetric_out_;
};

}  // namespace

std::vector<double> most_of(Comm& comm, std::vector<double> values) {
  comm.all_reduce(values, allfold::max);
  return values;
}

std::unique_ptr<Subject> make_host_subject(Comm& comm, const Plan& plan) {
  return for_elements(plan, [&]<class T, class Op>(T, Op op) -> std::unique_ptr<Subject> {
    return std::make_unique<HostSubject<T, Op>>(comm, plan, op);
  });
}

}  // namespace bench
