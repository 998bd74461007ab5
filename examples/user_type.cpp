// SPDX-License-Identifier: Apache-2.0

/// Types and operators of one's own: any trivially copyable struct, any functor of two of them. Operands come in
/// ascending rank order, so an operator need not commute.

#include <cstdio>
#include <stdexcept>
#include <vector>

#include <allfold/allfold.hpp>
#include <allfold/spawn.hpp>

namespace {

/// A value and where it was found.
struct Found {
  float value;
  int rank;
};

/// Keeps the larger value; of equals, the lower rank's.
struct Larger {
  Found operator()(const Found& a, const Found& b) const { return a.value < b.value ? b : a; }
};

/// The map x -> scale * x + shift. Doing one after another does not commute.
struct Affine {
  long scale;
  long shift;
};

void expect(bool holds) {
  if (!holds) throw std::runtime_error("user_type: a result is wrong");
}

void run_rank(const allfold::Environment& environment) {
  auto comm = allfold::Communicator<>::create(environment);
  const int rank = comm.rank();

  // Who has the largest value of each column? Column c's is at rank c.
  std::vector<Found> columns(static_cast<std::size_t>(comm.world_size()), {static_cast<float>(rank), rank});
  columns[static_cast<std::size_t>(rank)].value = 9.5F;
  comm.all_reduce(columns, Larger{});
  for (int c = 0; c < comm.world_size(); ++c) expect(columns[static_cast<std::size_t>(c)].rank == c);

  // Rank r multiplies by 2 and adds r: one rank after another, 0 becomes 0, 1, 4, 11.
  std::vector<Affine> maps = {{2, rank}};
  comm.all_reduce(maps, [](Affine first, Affine then) {
    return Affine{then.scale * first.scale, then.scale * first.shift + then.shift};
  });
  expect(maps[0].scale == 16 && maps[0].shift == 11);

  if (rank == 0) {
    std::printf("the largest of column 2 is %g, at rank %d\n", columns[2].value, columns[2].rank);
    std::printf("all maps, in rank order: x -> %ld x + %ld\n", maps[0].scale, maps[0].shift);
  }
}

}  // namespace

int main() { allfold::launch(4, run_rank); }
