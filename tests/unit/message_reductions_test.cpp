// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/algo/message/all_reduce.hpp>
#include <allfold/algo/message/reduce.hpp>
#include <allfold/algo/message/reduce_scatter.hpp>
#include <allfold/exec/host_reduction.hpp>
#include <allfold/exec/simulated_network.hpp>
#include <allfold/op/operators.hpp>
#include <allfold/op/reduction.hpp>

#include <support/fields.hpp>
#include <support/oracle.hpp>
#include <support/random.hpp>
#include <support/simulated.hpp>

using allfold::MessageReduction;
using allfold::Parts;
using allfold::SimulatedEndpoint;
using allfold::SimulatedNetwork;
using allfold::SimulatedRun;
using allfold_test::Random;
namespace message = allfold::message;

namespace {

std::size_t n(int ranks) { return static_cast<std::size_t>(ranks); }

/// A map x -> a x + b, of 32-bit integers that wrap; joined as one after the other: associative, and in this order
/// alone.
struct Affine {
  std::uint32_t a, b;

  Affine() = default;
  explicit Affine(std::uint32_t word) : a(word | 1), b(word * 3) {}
};
struct Compose {
  Affine operator()(const Affine& x, const Affine& y) const {
    Affine z;
    z.a = x.a * y.a;
    z.b = x.b * y.a + y.b;
    return z;
  }
};

template <class T>
using Vectors = std::vector<std::vector<T>>;  // [rank]

constexpr std::size_t guard = 4;

/// Every rank's operands, with canaries behind them.
template <class T>
Vectors<T> operands_of(int ranks, std::size_t count, std::uint64_t seed) {
  Vectors<T> in(n(ranks), std::vector<T>(count + guard, allfold_test::canary<T>()));
  for (int r = 0; r < ranks; ++r) {
    for (std::size_t i = 0; i < count; ++i) in[n(r)][i] = allfold_test::element<T>(seed, r, i);
  }
  return in;
}

template <class T>
bool guards_hold(const std::vector<T>& x, std::size_t count) {
  bool hold = true;
  for (std::size_t i = count; i < x.size(); ++i)
    hold = hold && allfold_test::same_bytes(x[i], allfold_test::canary<T>());
  return hold;
}

/// The fold in ascending rank order.
template <class T, class Op>
std::vector<T> folded(const Op& op, int ranks, std::size_t count, std::uint64_t seed) {
  std::vector<T> result(count);
  std::vector<T> operands(n(ranks));
  for (std::size_t i = 0; i < count; ++i) {
    for (int r = 0; r < ranks; ++r) operands[n(r)] = allfold_test::element<T>(seed, r, i);
    result[i] = allfold_test::expected<T>(op, std::span<const T>(operands));
  }
  return result;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if (!allfold_test::same_bytes(a[i], b[i])) return false;
  }
  return true;
}

/// Whether the fast algorithms must give the very bits of the fold in rank order too: nothing rounds.
template <class T, class Op>
constexpr bool is_exact = !(std::is_floating_point_v<T> || allfold_test::is_half<T>) ||
                          allfold_test::is_one_of<Op, allfold::Max, allfold::Min>;

/// Of sums of `ranks` numbers below 16 in magnitude, however they are ordered.
template <class T>
bool is_near(const T& a, const T& b, int ranks) {
  if constexpr (allfold_test::is_half<T>) {
    const float x = allfold_test::plain_value(a), y = allfold_test::plain_value(b);
    return std::fabs(x - y) <= std::max(std::fabs(y) / 100, static_cast<float>(ranks) * 1e-4F);
  } else if constexpr (std::is_floating_point_v<T>) {
    return std::fabs(static_cast<double>(a) - static_cast<double>(b)) <= 1e-4 * ranks;
  } else {
    return allfold_test::same_bytes(a, b);
  }
}

/// A result against the fold in rank order: the same bits where `exact`, else about the same.
template <class T>
bool is_right(const T* got, const T* want, std::size_t count, int ranks, bool exact) {
  for (std::size_t i = 0; i < count; ++i) {
    if (!(exact ? allfold_test::same_bytes(got[i], want[i]) : is_near(got[i], want[i], ranks))) return false;
  }
  return true;
}

/// One type and operator on one network.
template <class T, class Op>
struct Trial {
  SimulatedNetwork& network;
  Op op;
  std::size_t count;
  std::uint64_t seed;
  bool in_place;
  std::string what;

  allfold::Reduction<Op, T> reduction{op};
  MessageReduction erased = allfold::host_reduction(reduction);
  int ranks = network.world_size();
  Vectors<T> in = operands_of<T>(ranks, count, seed);
  std::vector<T> want = folded<T>(op, ranks, count, seed);

  void all_reduce(allfold::AllReduceMotion motion) {
    if (motion == allfold::AllReduceMotion::ring && !erased.commutes) return;
    Vectors<T> inputs = in;
    Vectors<T> out = in_place ? in : operands_of<T>(ranks, 0, 0);
    for (auto& x : out) x.resize(count + guard, allfold_test::canary<T>());
    const SimulatedRun run = network.run([&](SimulatedEndpoint& e) {
      T* const to = out[n(e.rank())].data();
      return message::all_reduce(e, motion, erased, in_place ? to : inputs[n(e.rank())].data(), to, count);
    });
    const std::string head = allfold::concat({what, ", all_reduce ", name(motion)});
    allfold_test::check_run(run, head);
    const bool exact = is_exact<T, Op> || is_reproducible(motion);
    for (int r = 0; r < ranks; ++r) {
      CHECK_MESSAGE(is_right(out[n(r)].data(), want.data(), count, ranks, exact), head, ", rank ", r);
      CHECK_MESSAGE(same_bits(out[n(r)], out[0], count), head, ": rank ", r, " has other bits than rank 0");
      CHECK_MESSAGE(guards_hold(out[n(r)], count), head, ", rank ", r);
      CHECK_MESSAGE(same_bits(inputs[n(r)], in[n(r)], count), head, ": rank ", r, " changed its input");
    }
  }

  void reduce(allfold::ReduceMotion motion, int root) {
    Vectors<T> inputs = in;
    std::vector<T> apart(count + guard, allfold_test::canary<T>());
    std::vector<T>& out = in_place ? inputs[n(root)] : apart;
    const SimulatedRun run = network.run([&](SimulatedEndpoint& e) {
      return message::reduce(e, motion, erased, inputs[n(e.rank())].data(), e.rank() == root ? out.data() : nullptr,
                             count, root);
    });
    const std::string head = allfold::concat({what, ", reduce ", name(motion), " to ", root});
    allfold_test::check_run(run, head);
    CHECK_MESSAGE(is_right(out.data(), want.data(), count, ranks, is_exact<T, Op> || is_reproducible(motion)), head);
    CHECK_MESSAGE(guards_hold(out, count), head);
    for (int r = 0; r < ranks; ++r) {
      if (r != root) CHECK_MESSAGE(same_bits(inputs[n(r)], in[n(r)], count + guard), head, ", rank ", r);
    }
  }

  /// In parts whose sizes differ, zero among them.
  void reduce_scatter(allfold::ReduceScatterMotion motion) {
    std::vector<std::size_t> part_sizes, begins;
    std::size_t at = 0;
    for (int r = 0; r < ranks; ++r) {
      const std::size_t left = count - at;
      const std::size_t even = count / n(ranks);
      part_sizes.push_back(r == ranks - 1 ? left : std::min(left, r % 3 == 1 ? 0 : even + n(r) % 3));
      begins.push_back(at);
      at += part_sizes.back();
    }
    Vectors<T> inputs = in;
    Vectors<T> out(n(ranks), std::vector<T>(count + guard, allfold_test::canary<T>()));
    const SimulatedRun run = network.run([&](SimulatedEndpoint& e) {
      const std::size_t r = n(e.rank());
      T* const to = in_place ? inputs[r].data() + begins[r] : out[r].data();
      return message::reduce_scatter(e, motion, erased, inputs[r].data(), to,
                                     Parts::listed(part_sizes.data(), begins.data()));
    });
    const std::string head = allfold::concat({what, ", reduce_scatter ", name(motion)});
    allfold_test::check_run(run, head);
    for (std::size_t r = 0; r < n(ranks); ++r) {
      const T* const got = in_place ? inputs[r].data() + begins[r] : out[r].data();
      CHECK_MESSAGE(
          is_right(got, want.data() + begins[r], part_sizes[r], ranks, is_exact<T, Op> || is_reproducible(motion)),
          head, ", rank ", r);
      CHECK_MESSAGE(guards_hold(inputs[r], count), head, ", rank ", r);
      if (!in_place) CHECK_MESSAGE(guards_hold(out[r], part_sizes[r]), head, ", rank ", r);
    }
  }

  void every_algorithm() {
    for (const auto motion : allfold::all_reduce_motions) all_reduce(motion);
    for (const auto motion : allfold::reduce_motions) reduce(motion, static_cast<int>(seed % n(ranks)));
    for (const auto motion : allfold::reduce_scatter_motions) reduce_scatter(motion);
  }
};

template <class T, class Op>
void try_out(SimulatedNetwork& network, const Op& op, std::size_t count, std::uint64_t seed, bool in_place) {
  const std::string what =
      allfold::concat({network.world_size(), " ranks, ", count, " ", allfold::type_name<T>(), " ",
                       allfold::operator_name<Op>(), in_place ? ", in place" : "", ", seed ", seed});
  Trial<T, Op>{network, op, count, seed, in_place, what}.every_algorithm();
}

/// One of the types and operators: a plain one, a wide accumulator, lift and finish, and an operator that does not
/// commute.
void try_any(SimulatedNetwork& network, unsigned which, std::size_t count, std::uint64_t seed, bool in_place) {
  switch (which % 5) {
    case 0: return try_out<float>(network, allfold::sum, count, seed, in_place);
    case 1: return try_out<allfold::bfloat16>(network, allfold::avg, count, seed, in_place);
    case 2: return try_out<std::int32_t>(network, allfold::premul_sum(3), count, seed, in_place);
    case 3: return try_out<std::uint8_t>(network, allfold::max, count, seed, in_place);
    default: return try_out<Affine>(network, Compose{}, count, seed, in_place);
  }
}

}  // namespace

TEST_CASE("every reduction gives the fold in rank order, on every world size, at counts around its boundaries") {
  for (const int world_size : allfold_test::world_sizes) {
    const auto models = allfold_test::eager_models();
    unsigned turn = 0;
    for (const std::size_t count : {n(0), n(1), n(world_size - 1), n(world_size), n(world_size + 1), n(15), n(16),
                                    n(17), 16 * n(world_size), 16 * n(world_size) + 1, n(300)}) {
      for (unsigned which = 0; which < 5; ++which, ++turn) {
        if (turn % (world_size <= 5 ? 1U : world_size <= 17 ? 3U : 7U) != 0) continue;
        SimulatedNetwork network(world_size, models[(count + which) % models.size()], allfold_test::uneven(turn));
        try_any(network, which, count, turn, turn % 2 != 0);
      }
    }
  }
}

TEST_CASE("random reductions") {
  Random random(allfold_test::test_seed());
  const auto models = allfold_test::eager_models();
  for (int i = 0; i < 80; ++i) {
    const int world_size = static_cast<int>(random.between(1, 40));
    const std::size_t count = random.below(std::size_t{1} << random.below(12));
    SimulatedNetwork network(world_size, models[random.below(models.size())], allfold_test::uneven(random.next()));
    try_any(network, static_cast<unsigned>(random.below(5)), count, random.next(), random.chance(50));
  }
}

TEST_CASE("each algorithm sends as many messages and bytes as it says") {
  struct Cost {
    allfold::AllReduceMotion motion;
    std::uint64_t messages;  // of one of eight ranks
    double vectors;          // the bytes of so many whole vectors
  };
  using enum allfold::AllReduceMotion;
  const allfold::Reduction<allfold::Sum, float> reduction{allfold::sum};
  constexpr std::size_t count = 4096;
  for (const Cost& cost : {Cost{recursive_doubling, 3, 3}, Cost{ring, 14, 1.75}, Cost{rabenseifner, 6, 1.75},
                           Cost{gathered, 3, 7}, Cost{bruck, 6, 2.375}, Cost{direct, 14, 1.75}}) {
    SimulatedNetwork network(8, {}, {}, false);
    const SimulatedRun run = network.run([&](SimulatedEndpoint& e) {
      void* const at = SimulatedNetwork::no_memory();
      return message::all_reduce(e, cost.motion, allfold::host_reduction(reduction), at, at, count);
    });
    CHECK_MESSAGE(run.max_messages == cost.messages, name(cost.motion));
    CHECK_MESSAGE(static_cast<double>(run.max_bytes) == cost.vectors * count * sizeof(float), name(cost.motion));
  }
}

TEST_CASE("long vectors go in pieces, two at a time") {
  for (const int world_size : {1, 2, 3}) {
    SimulatedNetwork network(world_size, {}, allfold_test::uneven(5));
    for (const bool in_place : {false, true}) {
      Trial<float, allfold::Sum> trial{network, allfold::sum, 150000 * n(world_size) + 77, 3, in_place, "long"};
      trial.all_reduce(allfold::AllReduceMotion::direct);
      trial.all_reduce(allfold::AllReduceMotion::ring);
      trial.reduce(allfold::ReduceMotion::direct, world_size - 1);
      trial.reduce_scatter(allfold::ReduceScatterMotion::pairwise);
    }
  }
}

TEST_CASE("every reduction ends when a rank is absent or a link is cut, and says who is to blame") {
  const allfold::Reduction<allfold::Sum, float> reduction{allfold::sum};
  const MessageReduction erased = allfold::host_reduction(reduction);
  for (const int world_size : {2, 5, 8}) {
    for (const std::size_t count : {n(3), n(3000), n(140000) * n(world_size)}) {
      const bool is_long = count > 3000;
      allfold::Disturbance absent = allfold_test::uneven(1);
      absent.absent = {world_size - 1};
      allfold::Disturbance cut = allfold_test::uneven(2);
      for (int r = 1; r < world_size; ++r) cut.cut.emplace_back(0, r);
      for (const allfold::Disturbance& disturbance : {absent, cut}) {
        SimulatedNetwork network(world_size, {}, disturbance);
        Vectors<float> in(n(world_size), std::vector<float>(count));
        Vectors<float> out = in;
        const auto check = [&](const std::string& what, auto&& body) {
          const SimulatedRun run = network.run(body);
          INFO(what << ", " << world_size << " ranks, " << count << " elements");
          REQUIRE(run.failure.has_value());
          const bool blamed = disturbance.cut.empty() ? run.failure->source == world_size - 1
                                                      : run.failure->source == 0 || run.failure->by == 0;
          CHECK(blamed);
        };
        for (const auto motion : allfold::all_reduce_motions) {
          if (is_long && motion != allfold::AllReduceMotion::direct && motion != allfold::AllReduceMotion::ring)
            continue;
          check(allfold::concat({"all_reduce ", name(motion)}), [&](SimulatedEndpoint& e) {
            return message::all_reduce(e, motion, erased, in[n(e.rank())].data(), out[n(e.rank())].data(), count);
          });
        }
        for (const auto motion : allfold::reduce_motions) {
          if (is_long && motion != allfold::ReduceMotion::direct) continue;
          check(allfold::concat({"reduce ", name(motion)}), [&](SimulatedEndpoint& e) {
            return message::reduce(e, motion, erased, in[n(e.rank())].data(), out[n(e.rank())].data(), count, 0);
          });
        }
        for (const auto motion : allfold::reduce_scatter_motions) {
          check(allfold::concat({"reduce_scatter ", name(motion)}), [&](SimulatedEndpoint& e) {
            return message::reduce_scatter(e, motion, erased, in[n(e.rank())].data(), out[n(e.rank())].data(),
                                           Parts::even(count, world_size, 1));
          });
        }
      }
    }
  }
}

TEST_CASE("all_reduce_coalesced: several buffers in one operation have the bits of each alone") {
  const allfold::Reduction<allfold::Sum, float> reduction{allfold::sum};
  const std::size_t counts[] = {3, 0, 100, 1, 17};
  for (const int world_size : {1, 3, 8, 17}) {
    for (const allfold::AllReduceMotion motion : allfold::all_reduce_motions) {
      SimulatedNetwork network(world_size);
      std::vector<Vectors<float>> buffers;  // [buffer][rank]
      std::vector<std::vector<allfold::message::ReducePiece>> pieces(n(world_size));
      for (std::size_t b = 0; b < std::size(counts); ++b)
        buffers.push_back(operands_of<float>(world_size, counts[b], b));
      for (std::size_t b = 0; b < std::size(counts); ++b) {
        for (int r = 0; r < world_size; ++r) {
          float* const at = buffers[b][n(r)].data();
          pieces[n(r)].push_back({at, at, counts[b]});
        }
      }
      const SimulatedRun run = network.run([&](SimulatedEndpoint& e) {
        return message::all_reduce_coalesced(e, motion, allfold::host_reduction(reduction), pieces[n(e.rank())]);
      });
      allfold_test::check_run(run, allfold::concat({"coalesced, ", world_size, " ranks, ", name(motion)}));
      for (std::size_t b = 0; b < std::size(counts); ++b) {
        const std::vector<float> want = folded<float>(allfold::sum, world_size, counts[b], b);
        for (const auto& of_rank : buffers[b]) {
          CHECK(is_right(of_rank.data(), want.data(), counts[b], world_size, is_reproducible(motion)));
          CHECK(same_bits(of_rank, buffers[b][0], counts[b]));
          CHECK(guards_hold(of_rank, counts[b]));
        }
      }
    }
  }
}

TEST_CASE("reproducible all-reduces of the same operands have the same bits, whatever the algorithm") {
  const allfold::Reduction<allfold::Sum, allfold::bfloat16> reduction{allfold::sum};
  for (const int world_size : {2, 7, 16, 33}) {
    const std::size_t count = 500;
    const Vectors<allfold::bfloat16> in = operands_of<allfold::bfloat16>(world_size, count, 1);
    Vectors<allfold::bfloat16> results;
    for (const allfold::AllReduceMotion motion : allfold::all_reduce_motions) {
      if (!is_reproducible(motion)) continue;
      Vectors<allfold::bfloat16> data = in;
      SimulatedNetwork network(world_size);
      const SimulatedRun run = network.run([&](SimulatedEndpoint& e) {
        auto* const at = data[n(e.rank())].data();
        return message::all_reduce(e, motion, allfold::host_reduction(reduction), at, at, count);
      });
      allfold_test::check_run(run, std::string(name(motion)));
      results.push_back(data[0]);
    }
    CHECK(results.size() == 3);
    for (const auto& result : results) CHECK(same_bits(result, results[0], count));
  }
}
