// SPDX-License-Identifier: Apache-2.0

#include "host_subject.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <vector>

#include "ceiling.hpp"

namespace bench {
namespace {

/// Memory of the rank's own, at the start of a page.
template <class T>
class PrivateMemory {
 public:
  explicit PrivateMemory(std::size_t count)
      : data_(static_cast<T*>(std::aligned_alloc(4096, (count * sizeof(T) + 4095) / 4096 * 4096))) {
    if (data_ == nullptr) throw std::bad_alloc();
    std::uninitialized_fill_n(data_.get(), count, T{});
  }
  T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::unique_ptr<T, Free> data_;
};

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
    std::vector<double> us = {copy, add};
    comm_.all_reduce(us, allfold::max);
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
    for (T& x : out(c, count)) x = from_float(-77.0F);
    std::size_t i = 0;
    for (T& x : source(c, count)) x = operand(comm_.rank(), i++);
  }

  /// Whether the output of calls after fill() has the expected bits.
  bool correct(const Case& c, std::size_t count) {
    const allfold::Reduction<Op, T> reduction{op_};
    const T* const result = out(c, count).data();
    for (std::size_t i = 0; i < count; ++i) {
      auto folded = reduction.lift(operand(0, i));
      for (int rank = 1; rank < comm_.world_size(); ++rank) folded = reduction.merge(folded, operand(rank, i));
      const T expected = reduction.finish(folded, comm_.world_size());
      if (bits(result[i]) != bits(expected)) return false;
    }
    return true;
  }

  void settle(const Case& c, std::size_t count) {
    if (!plan_.in_place) return;
    for (T& x : out(c, count)) x = from_float(0.0F);
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

  static T from_float(float x) { return static_cast<T>(x); }
  static auto bits(const T& x) { return std::bit_cast<std::array<std::byte, sizeof(T)>>(x); }

  /// What a rank contributes. The contract fixes the order of a fold, so that sums may round.
  T operand(int rank, std::size_t i) const {
    const auto hash =
        static_cast<std::uint32_t>((i + 1) * 2654435761U + static_cast<std::uint32_t>(rank) * 2246822519U);
    if (whole_numbers_) return from_float(static_cast<float>(hash >> 28) - 8.0F);
    return from_float((static_cast<float>(hash >> 20) - 2048.0F) * 0.0371F);
  }

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

std::unique_ptr<Subject> make_host_subject(Comm& comm, const Plan& plan) {
  const auto of = [&]<class T, class Op>(T, Op op) -> std::unique_ptr<Subject> {
    return std::make_unique<HostSubject<T, Op>>(comm, plan, op);
  };
  if (plan.op == Operator::max) return of(float{}, allfold::max);
  if (plan.op == Operator::avg) return of(float{}, allfold::avg);
  switch (plan.type) {
    case ElementType::float32: break;
    case ElementType::float64: return of(double{}, allfold::sum);
    case ElementType::int32: return of(std::int32_t{}, allfold::sum);
    case ElementType::float16: return of(allfold::float16{}, allfold::sum);
    case ElementType::bfloat16: return of(allfold::bfloat16{}, allfold::sum);
  }
  return of(float{}, allfold::sum);
}

}  // namespace bench
