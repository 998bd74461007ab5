// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include <doctest/doctest.h>

#include <allfold/allfold.hpp>

#include <support/all_reduce.hpp>
#include <support/random.hpp>
#include <support/ranks.hpp>

using allfold::Algorithm;
using allfold_test::Random;

namespace {

struct EverySelector {
  using policy_category = allfold::selector_tag;
  static constexpr allfold::AlgorithmSet candidates = allfold::AlgorithmSet::all();
  Algorithm select(const allfold::SelectionQuery& query) const {
    return query.bytes % 3 == 0 ? Algorithm::none : Algorithm::two_shot;
  }
};

using Comm = allfold::Communicator<EverySelector>;

constexpr std::size_t room = 110000;

/// 12 bytes: divides neither a packet nor a line.
struct Third {
  std::uint32_t a, b, c;

  Third() = default;
  explicit Third(std::uint32_t word) : a(word), b(word * 3), c(word >> 3) {}
};

struct JoinThirds {
  Third operator()(const Third& x, const Third& y) const {
    Third z;
    z.a = x.a + y.a;
    z.b = x.b * 31 + y.b;  // in this order alone
    z.c = x.c ^ y.c;
    return z;
  }
};

/// One rank's private and symmetric memory for elements of T. The symmetric part is allocated by all ranks at once.
template <class T>
struct Memory {
  explicit Memory(Comm& comm)
      : private_in(room),
        private_out(room),
        symmetric_in(comm.allocate<T>(room)),
        symmetric_out(comm.allocate<T>(room)) {}

  allfold_test::PrivateField<T> private_in;
  allfold_test::PrivateField<T> private_out;
  decltype(std::declval<Comm&>().template allocate<T>(1)) symmetric_in;
  decltype(std::declval<Comm&>().template allocate<T>(1)) symmetric_out;
};

/// A count of any magnitude.
std::size_t random_count(Random& random) {
  const std::size_t limit = std::size_t{1} << random.below(18);
  return random.chance(10) ? random.below(3) : random.below(std::min<std::size_t>(limit, 100000) + 1);
}

/// One all-reduce of all ranks: they draw the same numbers.
template <class T, class Op>
void random_all_reduce(Comm& comm, Memory<T>& memory, const Op& op, Random& random) {
  const std::size_t count = random_count(random);
  const std::span<T> in = random.chance(50) ? memory.private_in.span() : memory.symmetric_in.span();
  const std::span<T> out = random.chance(50) ? memory.private_out.span() : memory.symmetric_out.span();
  const bool in_place = random.chance(40);
  const std::size_t in_at = random.below(40);
  const std::size_t out_at = in_place ? in_at : random.below(40);
  const allfold_test::Fields<T> fields{in, in_place ? in : out, in_at, out_at};

  allfold::CallOptions options;
  options.channel = static_cast<int>(random.below(2));
  if (random.chance(80)) options.algorithm = random.pick(allfold::all_algorithms);
  const std::uint64_t seed = random.next();
  try {
    allfold_test::check_all_reduce<T>(comm, op, fields, count, seed, options);
  } catch (const allfold::UsageError&) {
    // This algorithm cannot run this call: said by all ranks alike, before they meet.
    EXPECT(options.algorithm && *options.algorithm != Algorithm::none);
    options.algorithm.reset();
    allfold_test::check_all_reduce<T>(comm, op, fields, count, seed, options);
  }
}

void random_schedule(const allfold::Environment& environment, std::uint64_t seed, int steps) {
  Random random(seed);
  const allfold::Options options{.channels = 2,
                                 .buffer_bytes = std::size_t{4096} << random.below(8),
                                 .blocks = static_cast<int>(random.between(1, 2)),
                                 .lanes = environment.world_size <= 3 ? static_cast<int>(random.between(1, 2)) : 1};
  Comm comm = Comm::create(environment, options);
  Memory<std::int32_t> ints(comm);
  Memory<float> floats(comm);
  Memory<allfold::bfloat16> halves(comm);
  Memory<std::uint8_t> bytes(comm);
  Memory<Third> thirds(comm);
  for (int step = 0; step < steps; ++step) {
    switch (random.below(6)) {
      case 0: random_all_reduce(comm, ints, allfold::sum, random); break;
      case 1: random_all_reduce(comm, floats, allfold::sum, random); break;
      case 2: random_all_reduce(comm, halves, allfold::sum, random); break;
      case 3: random_all_reduce(comm, bytes, allfold::max, random); break;
      case 4: random_all_reduce(comm, thirds, JoinThirds{}, random); break;
      default: comm.barrier(); break;
    }
  }
}

}  // namespace

TEST_CASE("random all-reduces") {
  const std::uint64_t seed = allfold_test::test_seed();
  for (const int world_size : {1, 2, 3, 4, 5, 6, 7, 8}) {
    const auto body = [&](const allfold::Environment& environment) {
      random_schedule(environment, seed + static_cast<unsigned>(world_size), 60);
    };
    allfold_test::over_ranks({world_size}, body);
  }
}
