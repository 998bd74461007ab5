// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>

#include <doctest/doctest.h>

#include <allfold/allfold.hpp>

#include <support/all_reduce.hpp>
#include <support/ranks.hpp>

using allfold::Algorithm;

namespace {

/// Compiles every algorithm, so that a call can ask for any.
struct EverySelector {
  using policy_category = allfold::selector_tag;
  static constexpr allfold::AlgorithmSet candidates = allfold::AlgorithmSet::all();
  Algorithm select(const allfold::SelectionQuery&) const { return Algorithm::none; }
};

using Comm = allfold::Communicator<EverySelector>;

constexpr std::initializer_list<Algorithm> any_buffer = {Algorithm::none, Algorithm::one_shot, Algorithm::two_shot};
/// In packets, or in chunks of their own size.
constexpr std::initializer_list<Algorithm> packets = {Algorithm::one_shot_packet, Algorithm::two_shot_packet,
                                                      Algorithm::one_shot_push, Algorithm::two_shot_push};
constexpr std::size_t guard = allfold_test::guard_elems;

/// Placements of input and output: in private and symmetric memory, in place and not, aligned and not. `all`: every
/// one, else one of each kind that takes a way of its own, none aligned.
template <class T, class Op>
void check_placements(Comm& comm, const Op& op, Algorithm algorithm, std::size_t count, std::uint64_t seed,
                      bool all = true) {
  const std::size_t room = count + 3 * guard;
  allfold_test::PrivateField<T> private_a(room);
  allfold_test::PrivateField<T> private_b(room);
  auto symmetric_a = comm.allocate<T>(room);
  auto symmetric_b = comm.allocate<T>(room);
  const allfold::CallOptions options{.channel = 0, .timeout = std::nullopt, .algorithm = algorithm};
  const std::span<T> fields[][2] = {{private_a.span(), private_a.span()},     {private_a.span(), private_b.span()},
                                    {symmetric_a.span(), symmetric_a.span()}, {symmetric_a.span(), symmetric_b.span()},
                                    {private_a.span(), symmetric_b.span()},   {symmetric_a.span(), private_b.span()}};
  for (const auto& [in, out] : fields) {
    const bool in_place = in.data() == out.data();
    const bool from_private = in.data() == private_a.span().data();
    if (!all && in_place != from_private) continue;
    if (all) allfold_test::check_all_reduce<T>(comm, op, {in, out, guard, guard}, count, seed, options);
    allfold_test::check_all_reduce<T>(comm, op, {in, out, guard + 1, guard + (in_place ? 1 : 3)}, count, seed, options);
  }
}

template <class T, class Op>
void check_algorithms(const allfold::Environment& environment, const Op& op, int blocks, int lanes) {
  const allfold::Options options{.buffer_bytes = std::size_t{64} << 10, .blocks = blocks, .lanes = lanes};
  Comm comm = Comm::create(environment, options);
  std::uint64_t seed = 100;
  for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{5}, std::size_t{64}, std::size_t{777}}) {
    for (const Algorithm algorithm : packets) check_placements<T>(comm, op, algorithm, count, ++seed);
    for (const Algorithm algorithm : any_buffer) check_placements<T>(comm, op, algorithm, count, ++seed);
  }
  // More than the staging buffer, or all packets, hold: in rounds.
  for (const Algorithm algorithm : any_buffer) check_placements<T>(comm, op, algorithm, 30011, ++seed);
  if (environment.world_size > 3) return;
  for (const Algorithm algorithm : packets) check_placements<T>(comm, op, algorithm, 150011, ++seed, false);
}

allfold::LinkMatrix mesh() {
  allfold::LinkMatrix matrix{.world_size = 8};
  for (int rank = 0; rank < 8; ++rank) {
    for (int other = rank + 1; other < 8; ++other) {
      if (rank / 4 == other / 4 || rank + 4 == other) matrix.connect(rank, other);
    }
  }
  return matrix;
}

}  // namespace

TEST_CASE("every algorithm gives the same bits, with one lane") {
  allfold_test::over_ranks(allfold_test::every_world_size, [](const allfold::Environment& environment) {
    check_algorithms<float>(environment, allfold::sum, 1, 1);
  });
}

TEST_CASE("two blocks of one lane") {
  allfold_test::over_ranks({1, 2, 3}, [](const allfold::Environment& environment) {
    check_algorithms<float>(environment, allfold::sum, 2, 1);
  });
}

TEST_CASE("two blocks of two lanes") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    check_algorithms<float>(environment, allfold::sum, 2, 2);
  });
}

TEST_CASE("three blocks of two lanes") {
  allfold_test::over_ranks(
      {2}, [](const allfold::Environment& environment) { check_algorithms<float>(environment, allfold::sum, 3, 2); });
}

TEST_CASE("every algorithm on a 16-bit type, whose packets and lines hold more elements") {
  allfold_test::over_ranks({1, 3, 4}, [](const allfold::Environment& environment) {
    check_algorithms<allfold::bfloat16>(environment, allfold::sum, 1, 1);
  });
}

TEST_CASE("hybrid cube mesh folds each quad, then joins the two") {
  allfold_test::over_ranks({8}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment, allfold::FixedTopology(mesh()),
                             allfold::Options{.buffer_bytes = std::size_t{64} << 10});
    for (const std::size_t count : {std::size_t{0}, std::size_t{3}, std::size_t{777}, std::size_t{30011}}) {
      check_placements<float>(comm, allfold::sum, Algorithm::hybrid_cube_mesh, count, count);
    }
  });
}

TEST_CASE("an algorithm that cannot run the call is refused, and the communicator lives on") {
  allfold_test::over_ranks({2}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    allfold_test::PrivateField<float> field(4);
    allfold::CallOptions options;
    options.algorithm = Algorithm::hybrid_cube_mesh;
    allfold_test::expect_contains(
        EXPECT_THROWS_AS(comm.all_reduce(field.span(), allfold::sum, options), allfold::UsageError),
        {"all_reduce", "hybrid_cube_mesh"});
    allfold_test::check_counts<float>(comm, allfold::sum, {100}, 1);
  });
}
