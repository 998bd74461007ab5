// SPDX-License-Identifier: Apache-2.0
// Every collective through the communicator, with progress by the caller and by a thread.
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/ucx.hpp>

#include <support/all_reduce.hpp>
#include <support/over_ucx.hpp>
#include <support/rank_values.hpp>
#include <support/ranks.hpp>

using allfold_test::canary;
using allfold_test::folded_values;
using allfold_test::over_ucx;
using allfold_test::values_of;
using allfold_test::values_of_all;

namespace {

std::size_t n(int rank) { return static_cast<std::size_t>(rank); }

template <class T>
bool same(std::span<const T> a, std::span<const T> b) {
  return allfold_test::same_values(a, b);
}
template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return same(std::span<const T>(a), std::span<const T>(b));
}

/// Rank r's part has r * unit elements.
std::vector<std::size_t> growing(int ranks, std::size_t unit) {
  std::vector<std::size_t> counts(n(ranks));
  for (int r = 0; r < ranks; ++r) counts[n(r)] = n(r) * unit;
  return counts;
}
std::size_t sum_of(const std::vector<std::size_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::size_t{0});
}

template <class T, class Op>
void every_reduction(auto& comm, const Op& op, std::size_t count) {
  const int me = comm.rank();
  const int ranks = comm.world_size();
  const int root = ranks - 1;
  const std::vector<T> in = values_of<T>(me, count);
  const std::vector<T> want = folded_values<T>(op, ranks, count);

  std::vector<T> out(count, canary<T>());
  comm.all_reduce(in, out, op);
  EXPECT(same(out, want));
  out = in;
  comm.all_reduce(out, op);
  EXPECT(same(out, want));

  std::vector<T> a(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(count / 3));
  std::vector<T> b(in.begin() + static_cast<std::ptrdiff_t>(count / 3), in.end());
  std::vector<T> nothing;
  const std::span<T> pieces[] = {a, nothing, b};
  comm.all_reduce_coalesced(std::span<const std::span<T>>(pieces), op);
  a.insert(a.end(), b.begin(), b.end());
  EXPECT(same(a, want));

  std::vector<T> at_root(me == root ? count : 0);
  comm.reduce(in, at_root, op, {.root = root});
  EXPECT(me != root || same(at_root, want));

  const std::size_t each = count / n(ranks);
  std::vector<T> part(each);
  comm.reduce_scatter(std::span<const T>(in).first(each * n(ranks)), part, op);
  EXPECT(same(std::span<const T>(part), std::span<const T>(want).subspan(each * n(me), each)));

  const auto counts = growing(ranks, count / 16);
  const std::size_t total = sum_of(counts);
  if (total <= count) {
    std::vector<T> mine(counts[n(me)]);
    comm.reduce_scatter_v(std::span<const T>(in).first(total), mine, op, counts);
    const std::size_t begin = n(me) * (n(me) - (me > 0 ? 1 : 0)) / 2 * (count / 16);
    EXPECT(same(std::span<const T>(mine), std::span<const T>(want).subspan(begin, mine.size())));
  }
}

template <class T>
void every_motion(auto& comm, std::size_t each) {
  const int me = comm.rank();
  const int ranks = comm.world_size();
  const int root = ranks / 2;
  const std::vector<T> mine = values_of<T>(me, each);
  const std::vector<T> all_of_all = values_of_all<T>(ranks, each);

  std::vector<T> data = me == root ? mine : std::vector<T>(each, canary<T>());
  comm.broadcast(data, {.root = root});
  EXPECT(same(data, values_of<T>(root, each)));

  std::vector<T> all(each * n(ranks), canary<T>());
  comm.all_gather(mine, all);
  EXPECT(same(all, all_of_all));

  std::vector<T> gathered(me == root ? all.size() : 0);
  comm.gather(mine, gathered, {.root = root});
  EXPECT(me != root || same(gathered, all_of_all));
  std::vector<T> back(each, canary<T>());
  comm.scatter(gathered, back, {.root = root});
  EXPECT(same(back, mine));

  // Part r of rank s is what rank s has from each * r on.
  const std::vector<T> to_all = values_of<T>(me, each * n(ranks));
  std::vector<T> from_all(all.size(), canary<T>());
  comm.all_to_all(to_all, from_all);
  for (int r = 0; r < ranks; ++r) {
    EXPECT(same(std::span<const T>(from_all).subspan(n(r) * each, each),
                std::span<const T>(values_of<T>(r, each, n(me) * each))));
  }
}

/// Parts of rank r have r * each elements.
template <class T>
void every_uneven_motion(auto& comm, std::size_t each) {
  const int me = comm.rank();
  const int ranks = comm.world_size();
  const auto counts = growing(ranks, each);
  const std::vector<T> mine = values_of<T>(me, counts[n(me)]);
  std::vector<T> all_of_all;
  for (int r = 0; r < ranks; ++r) {
    const auto theirs = values_of<T>(r, counts[n(r)]);
    all_of_all.insert(all_of_all.end(), theirs.begin(), theirs.end());
  }
  std::vector<T> all(all_of_all.size(), canary<T>());
  comm.all_gather_v(mine, all, counts);
  EXPECT(same(all, all_of_all));

  std::vector<T> gathered(me == 0 ? all.size() : 0);
  comm.gather_v(mine, gathered, me == 0 ? counts : std::vector<std::size_t>());
  EXPECT(me != 0 || same(gathered, all_of_all));
  std::vector<T> back(mine.size(), canary<T>());
  comm.scatter_v(gathered, me == 0 ? counts : std::vector<std::size_t>(), back);
  EXPECT(same(back, mine));

  // Every rank has r * each elements for rank r, and so gets its own count from each.
  const std::vector<T> to_all = values_of<T>(me, sum_of(counts));
  const std::vector<std::size_t> from_counts(n(ranks), counts[n(me)]);
  std::vector<T> from_all(sum_of(from_counts), canary<T>());
  comm.all_to_all_v(to_all, counts, from_all, from_counts);
  const std::size_t begin = n(me) * (n(ranks) > 0 && me > 0 ? n(me) - 1 : 0) / 2 * each;
  for (int r = 0; r < ranks; ++r) {
    EXPECT(same(std::span<const T>(from_all).subspan(n(r) * counts[n(me)], counts[n(me)]),
                std::span<const T>(values_of<T>(r, counts[n(me)], begin))));
  }
}

}  // namespace

TEST_CASE("every reduction has the oracle's bits") {
  over_ucx({1, 2, 3, 4}, [](auto& comm) {
    every_reduction<float>(comm, allfold::sum, 1);
    every_reduction<float>(comm, allfold::sum, 30011);
    every_reduction<std::int32_t>(comm, allfold::max, 700);
    every_reduction<allfold::bfloat16>(comm, allfold::sum, 5003);
  });
}

TEST_CASE("every motion of elements") {
  over_ucx({1, 2, 3, 4}, [](auto& comm) {
    for (const std::size_t each : {0, 1, 1000, 70001}) {
      every_motion<std::int32_t>(comm, each);
      every_uneven_motion<std::int32_t>(comm, each);
    }
    comm.barrier();
  });
}

TEST_CASE("the fast mode has the same bits on every rank") {
  over_ucx({3, 4}, [](auto& comm) {
    for (const std::size_t count : {5, 3000, 90001}) {
      std::vector<float> data = values_of<float>(comm.rank(), count);
      comm.all_reduce(data, allfold::sum, {.fast = true});
      std::vector<float> all(count * n(comm.world_size()));
      comm.all_gather(data, all);
      for (int r = 0; r < comm.world_size(); ++r) {
        EXPECT(same(std::span<const float>(all).subspan(n(r) * count, count), std::span<const float>(data)));
      }
    }
  });
}

TEST_CASE("all_gather may go by all_gather_v") {
  over_ucx({3}, [](auto& comm) { every_motion<std::int32_t>(comm, 300); }, {.all_gather_by_v = true});
}
