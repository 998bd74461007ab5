// SPDX-License-Identifier: Apache-2.0
#pragma once

/// What is timed: all-reduces of one element type and one operator, behind an interface so that the rest of the
/// program is compiled once.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <utility>

#include <allfold/allfold.hpp>

#include "plan.hpp"

namespace bench {

using Comm = allfold::Communicator<>;

/// One way to run a size.
struct Case {
  Buffers buffers = Buffers::symmetric;
  std::optional<allfold::Algorithm> algorithm;  ///< nothing: the selector's choice
};

class Subject {
 public:
  virtual ~Subject() = default;

  /// The algorithm that runs `c`; nothing if the one it asks for cannot.
  virtual std::optional<allfold::Algorithm> algorithm(const Case& c, std::size_t count) = 0;
  /// Writes operands whose result is known, and spoils the output.
  virtual void fill(const Case& c, std::size_t count) = 0;
  /// Whether the output of one call after fill() has the expected bits.
  virtual bool verify(const Case& c, std::size_t count) const = 0;
  /// Makes operands fit for repeated calls: sums in place must not overflow.
  virtual void settle(const Case& c, std::size_t count) = 0;
  /// So many calls, back to back. Collective.
  virtual void run(const Case& c, std::size_t count, long iterations) = 0;
  /// The private input and output, as memory to measure copies in.
  virtual std::pair<void*, void*> scratch() = 0;
};

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

template <class T, class Op>
class SubjectOf final : public Subject {
 public:
  SubjectOf(Comm& comm, const Plan& plan, Op op)
      : comm_(comm),
        op_(op),
        in_place_(plan.in_place),
        whole_numbers_(plan.whole_numbers()),
        private_in_(plan.max_bytes / sizeof(T) + 1),
        private_out_(plan.max_bytes / sizeof(T) + 1) {
    for (const Buffers buffers : plan.buffers) {
      if (buffers != Buffers::symmetric) continue;
      symmetric_out_.emplace(comm.allocate<T>(plan.max_bytes / sizeof(T) + 1));
      if (!in_place_) symmetric_in_.emplace(comm.allocate<T>(plan.max_bytes / sizeof(T) + 1));
    }
  }

  std::optional<allfold::Algorithm> algorithm(const Case& c, std::size_t count) override {
    if (!c.algorithm) return comm_.would_choose(in(c, count), out(c, count));
    try {
      run(c, count, 1);
    } catch (const allfold::UsageError&) {  // thrown before anything is sent, on every rank alike
      return std::nullopt;
    }
    return c.algorithm;
  }

  void fill(const Case& c, std::size_t count) override {
    for (T& x : out(c, count)) x = from_float(-77.0F);
    std::size_t i = 0;
    for (T& x : source(c, count)) x = operand(comm_.rank(), i++);
  }

  bool verify(const Case& c, std::size_t count) const override {
    const allfold::Reduction<Op, T> reduction{op_};
    const T* const result = const_cast<SubjectOf*>(this)->out(c, count).data();
    for (std::size_t i = 0; i < count; ++i) {
      auto folded = reduction.lift(operand(0, i));
      for (int rank = 1; rank < comm_.world_size(); ++rank) folded = reduction.merge(folded, operand(rank, i));
      const T expected = reduction.finish(folded, comm_.world_size());
      if (std::memcmp(&result[i], &expected, sizeof(T)) != 0) return false;
    }
    return true;
  }

  void settle(const Case& c, std::size_t count) override {
    if (!in_place_) return;
    for (T& x : out(c, count)) x = from_float(0.0F);
  }

  void run(const Case& c, std::size_t count, long iterations) override {
    const allfold::CallOptions options{.algorithm = c.algorithm};
    const std::span<T> to = out(c, count);
    if (in_place_) {
      for (long i = 0; i < iterations; ++i) comm_.all_reduce(to, op_, options);
    } else {
      const std::span<const T> from = in(c, count);
      for (long i = 0; i < iterations; ++i) comm_.all_reduce(from, to, op_, options);
    }
  }

  std::pair<void*, void*> scratch() override { return {private_in_.data(), private_out_.data()}; }

 private:
  std::span<T> out(const Case& c, std::size_t count) {
    return {c.buffers == Buffers::symmetric ? symmetric_out_->data() : private_out_.data(), count};
  }
  std::span<T> source(const Case& c, std::size_t count) {
    if (in_place_) return out(c, count);
    return {c.buffers == Buffers::symmetric ? symmetric_in_->data() : private_in_.data(), count};
  }
  std::span<const T> in(const Case& c, std::size_t count) { return source(c, count); }

  static T from_float(float x) { return static_cast<T>(x); }

  /// What a rank contributes. The contract fixes the order of a fold, so that sums may round.
  T operand(int rank, std::size_t i) const {
    const auto hash =
        static_cast<std::uint32_t>((i + 1) * 2654435761U + static_cast<std::uint32_t>(rank) * 2246822519U);
    if (whole_numbers_) return from_float(static_cast<float>(hash >> 28) - 8.0F);
    return from_float((static_cast<float>(hash >> 20) - 2048.0F) * 0.0371F);
  }

  Comm& comm_;
  Op op_;
  bool in_place_;
  bool whole_numbers_;
  PrivateMemory<T> private_in_;
  PrivateMemory<T> private_out_;
  std::optional<Comm::buffer_type<T>> symmetric_in_;
  std::optional<Comm::buffer_type<T>> symmetric_out_;
};

/// Collective: symmetric memory is allocated.
std::unique_ptr<Subject> make_subject(Comm& comm, const Plan& plan);

}  // namespace bench
