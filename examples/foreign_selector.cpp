// SPDX-License-Identifier: Apache-2.0

/// A selector of one's own: which algorithm an all-reduce takes is the program's choice. It is as good as the
/// library's own, and only the algorithms that it names are compiled.

#include <cstdio>
#include <numeric>
#include <stdexcept>
#include <vector>

#include <allfold/allfold.hpp>
#include <allfold/spawn.hpp>

namespace {

using allfold::Algorithm;
using allfold::AlgorithmSet;

/// Packets while a message is short, two shots after that.
class ShortOrLong {
 public:
  using policy_category = allfold::selector_tag;
  static constexpr allfold::AlgorithmSet candidates = AlgorithmSet::of(Algorithm::one_shot_packet) |
                                                      AlgorithmSet::of(Algorithm::two_shot) |
                                                      AlgorithmSet::of(Algorithm::none);

  explicit ShortOrLong(std::size_t short_bytes = 4096) : short_bytes_(short_bytes) {}

  Algorithm select(const allfold::SelectionQuery& query) const {
    const Algorithm wanted = query.bytes <= short_bytes_ ? Algorithm::one_shot_packet : Algorithm::two_shot;
    return query.possible.contains(wanted) ? wanted : Algorithm::none;
  }

 private:
  std::size_t short_bytes_;
};
static_assert(allfold::selector_policy<ShortOrLong>);

using Comm = allfold::Communicator<ShortOrLong>;

/// Folds `count` integers and tells which algorithm did it. @throws std::runtime_error if the sum is wrong.
Algorithm fold(Comm& comm, std::size_t count) {
  auto x = comm.allocate<int>(count);
  std::iota(x.begin(), x.end(), comm.rank());
  const Algorithm algorithm = comm.would_choose(x.span(), x.span());
  comm.all_reduce(x.span(), allfold::sum);
  const int world_size = comm.world_size();
  for (std::size_t i = 0; i < count; ++i) {
    if (x[i] != world_size * static_cast<int>(i) + world_size * (world_size - 1) / 2) {
      throw std::runtime_error("foreign_selector: the sum is wrong");
    }
  }
  return algorithm;
}

}  // namespace

int main() {
  allfold::launch(3, [](const allfold::Environment& environment) {
    auto comm = Comm::create(environment, ShortOrLong(1024));
    for (const std::size_t count : {std::size_t{100}, std::size_t{100'000}}) {
      const Algorithm algorithm = fold(comm, count);
      const bool expected = algorithm == (count == 100 ? Algorithm::one_shot_packet : Algorithm::two_shot);
      if (!expected) throw std::runtime_error("foreign_selector: the communicator did not ask the selector");
      if (comm.rank() == 0) std::printf("%zu integers: %s\n", count, name(algorithm).data());
    }
  });
}
