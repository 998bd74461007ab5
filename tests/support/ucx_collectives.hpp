// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <allfold/algo/message/all_gather.hpp>
#include <allfold/algo/message/all_reduce.hpp>
#include <allfold/algo/message/all_to_all.hpp>
#include <allfold/algo/message/broadcast.hpp>
#include <allfold/algo/message/gather.hpp>
#include <allfold/algo/message/reduce.hpp>
#include <allfold/algo/message/reduce_scatter.hpp>
#include <allfold/algo/message/scatter.hpp>
#include <allfold/exec/host_reduction.hpp>
#include <allfold/op/operators.hpp>

#include <support/fields.hpp>
#include <support/oracle.hpp>
#include <support/ranks.hpp>
#include <support/simulated.hpp>
#include <support/ucx_ranks.hpp>

namespace allfold_test {

inline std::size_t index(int rank) { return static_cast<std::size_t>(rank); }

/// From messages that are copied at once to ones that UCX asks for first.
inline constexpr std::size_t message_sizes[] = {1, 100, 70000, 1100000};

template <class T>
bool near_or_same(const T& got, const T& want, bool exact) {
  if constexpr (std::is_floating_point_v<T>) {
    if (!exact) return std::fabs(got - want) <= 1e-4;
  }
  return same_bytes(got, want);
}

/// Every motion of every reduction of `count` elements, in a world of any size.
template <class T, class Op>
void every_reduction(UcxRank& rank, const Op& op, std::size_t count) {
  const int ranks = rank.world_size();
  const allfold::Reduction<Op, T> reduction{op};
  const allfold::MessageReduction erased = allfold::host_reduction(reduction);
  std::vector<T> in(count), out(count), want(count), operands(index(ranks));
  for (std::size_t i = 0; i < count; ++i) {
    for (int r = 0; r < ranks; ++r) operands[index(r)] = element<T>(7, r, i);
    in[i] = operands[index(rank.rank())];
    want[i] = expected<T>(op, std::span<const T>(operands));
  }
  const auto right = [&](const T* got, std::size_t begin, std::size_t size, bool reproducible) {
    for (std::size_t i = 0; i < size; ++i) {
      if (!near_or_same(got[i], want[begin + i], reproducible)) return false;
    }
    return true;
  };
  for (const auto motion : allfold::all_reduce_motions) {
    std::fill(out.begin(), out.end(), canary<T>());
    rank.run("all_reduce", [&](allfold::UcxEndpoint& e) {
      return allfold::message::all_reduce(e, motion, erased, in.data(), out.data(), count);
    });
    if (!right(out.data(), 0, count, is_reproducible(motion))) {
      throw_failure(std::string(name(motion)), __FILE__, __LINE__);
    }
  }
  for (const auto motion : allfold::reduce_motions) {
    const int root = ranks - 1;
    std::fill(out.begin(), out.end(), canary<T>());
    rank.run("reduce", [&](allfold::UcxEndpoint& e) {
      return allfold::message::reduce(e, motion, erased, in.data(), out.data(), count, root);
    });
    EXPECT(rank.rank() != root || right(out.data(), 0, count, motion != allfold::ReduceMotion::knomial));
  }
  for (const auto motion : allfold::reduce_scatter_motions) {
    const allfold::Parts parts = allfold::Parts::even(count, ranks, 1);
    rank.run("reduce_scatter", [&](allfold::UcxEndpoint& e) {
      return allfold::message::reduce_scatter(e, motion, erased, in.data(), out.data(), parts);
    });
    const allfold::Range mine = parts.of(rank.rank());
    EXPECT(right(out.data(), mine.begin, mine.size(), motion == allfold::ReduceScatterMotion::pairwise));
  }
}

/// Every motion of every collective that folds nothing, of `each` bytes a rank.
inline void every_move(UcxRank& rank, std::size_t each) {
  using Bytes = std::vector<unsigned char>;
  const int ranks = rank.world_size();
  const int me = rank.rank();
  Bytes in(each), all(each * index(ranks)), from_all(each * index(ranks));
  fill(in, 0, each, me, 0);
  const auto all_hold = [&](const Bytes& bytes) {
    bool hold = true;
    for (int r = 0; r < ranks; ++r) hold = hold && holds(bytes, index(r) * each, each, r, 0);
    return hold;
  };
  for (const auto motion : allfold::all_gather_motions) {
    std::fill(all.begin(), all.end(), static_cast<unsigned char>(0));
    rank.run("all_gather", [&](allfold::UcxEndpoint& e) {
      return allfold::message::all_gather(e, motion, in.data(), all.data(), each);
    });
    EXPECT(all_hold(all));
  }
  for (const auto motion : allfold::all_to_all_motions) {
    for (int r = 0; r < ranks; ++r) fill(all, index(r) * each, each, me, r);
    rank.run("all_to_all", [&](allfold::UcxEndpoint& e) {
      return allfold::message::all_to_all(e, motion, all.data(), from_all.data(), each);
    });
    for (int r = 0; r < ranks; ++r) EXPECT(holds(from_all, index(r) * each, each, r, me));
  }
  for (int root = 0; root < ranks; ++root) {
    for (const auto motion : allfold::broadcast_motions) {
      Bytes data(each);
      if (me == root) fill(data, 0, each, root, 5);
      rank.run("broadcast", [&](allfold::UcxEndpoint& e) {
        return allfold::message::broadcast(e, motion, data.data(), each, root);
      });
      EXPECT(holds(data, 0, each, root, 5));
    }
    std::fill(all.begin(), all.end(), static_cast<unsigned char>(0));
    rank.run("gather", [&](allfold::UcxEndpoint& e) {
      return allfold::message::gather_knomial(e, in.data(), all.data(), each, root);
    });
    EXPECT(me != root || all_hold(all));
    Bytes back(each);
    rank.run("scatter", [&](allfold::UcxEndpoint& e) {
      return allfold::message::scatter_knomial(e, all.data(), back.data(), each, root);
    });
    EXPECT(back == in);
    std::fill(all.begin(), all.end(), static_cast<unsigned char>(0));
    rank.run("gather", [&](allfold::UcxEndpoint& e) {
      return allfold::message::gather_linear(e, in.data(), all.data(), allfold::Parts::equal(each), root);
    });
    EXPECT(me != root || all_hold(all));
    std::fill(back.begin(), back.end(), static_cast<unsigned char>(0));
    rank.run("scatter", [&](allfold::UcxEndpoint& e) {
      return allfold::message::scatter_linear(e, all.data(), back.data(), allfold::Parts::equal(each), root);
    });
    EXPECT(back == in);
  }
}

}  // namespace allfold_test
