// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Every algorithm of every collective over messages, for any endpoint: what allfold_scale runs on the simulated
/// network and allfold_scale_ucx between processes.

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <allfold/algo/message/all_gather.hpp>
#include <allfold/algo/message/all_reduce.hpp>
#include <allfold/algo/message/all_to_all.hpp>
#include <allfold/algo/message/barrier.hpp>
#include <allfold/algo/message/broadcast.hpp>
#include <allfold/algo/message/gather.hpp>
#include <allfold/algo/message/reduce.hpp>
#include <allfold/algo/message/reduce_scatter.hpp>
#include <allfold/algo/message/scatter.hpp>
#include <allfold/exec/host_reduction.hpp>
#include <allfold/op/operators.hpp>
#include <allfold/policy/message_algorithm.hpp>
#include <allfold/select/message_thresholds.hpp>

namespace scale {

/// One algorithm of one collective.
template <class E>
struct Subject {
  std::string collective;
  std::string algorithm;
  bool reproducible = false;  ///< of those that fold
  bool folds = false;
  bool quadratic = false;  ///< P messages from each rank, and more
  /// The bytes of a call are those of a rank's whole vector: P parts where a collective divides it, a byte each at
  /// least. `in` and `out` hold room_bytes().
  std::function<allfold::Task<bool>(E& e, void* in, void* out, std::size_t bytes)> run;
};

/// Parts are rounded up.
inline std::size_t room_bytes(std::size_t bytes, int ranks) { return bytes + static_cast<std::size_t>(ranks); }

/// What the default thresholds choose; empty where a collective has no choice.
inline std::string chosen_algorithm(const std::string& collective, const allfold::MessageQuery& query) {
  constexpr allfold::MessageThresholds thresholds;
  const auto text = [](auto motion) { return std::string(name(motion)); };
  if (collective == "all_reduce") return text(thresholds.all_reduce(query));
  if (collective == "reduce") return text(thresholds.reduce(query));
  if (collective == "reduce_scatter") return text(thresholds.reduce_scatter(query));
  if (collective == "broadcast") return text(thresholds.broadcast(query));
  if (collective == "all_gather") return text(thresholds.all_gather(query));
  if (collective == "all_to_all") return text(thresholds.all_to_all(query));
  return {};
}

namespace detail {

inline const allfold::Reduction<allfold::Sum, float> float_sum{allfold::sum};
inline allfold::MessageReduction reduction() { return allfold::host_reduction(float_sum); }

template <class E>
std::size_t each(const E& e, std::size_t bytes) {
  const auto ranks = static_cast<std::size_t>(e.world_size());
  return (bytes + ranks - 1) / ranks;
}

template <class Motion>
bool is_quadratic(Motion motion) {
  const std::string_view text = name(motion);
  return text == "ring" || text == "direct" || text == "pairwise" || text == "scatter_all_gather";
}

}  // namespace detail

/// All of them, the algorithms of a collective one after another; the root is rank 0.
template <class E>
std::vector<Subject<E>> all_subjects() {
  namespace message = allfold::message;
  using allfold::Parts;
  using detail::each;
  using detail::is_quadratic;
  using detail::reduction;
  using Run = decltype(Subject<E>::run);
  std::vector<Subject<E>> subjects;
  const auto fold = [&](const char* collective, auto motion, Run run) {
    subjects.push_back(
        {collective, std::string(name(motion)), is_reproducible(motion), true, is_quadratic(motion), std::move(run)});
  };
  const auto move = [&](const char* collective, std::string algorithm, bool quadratic, Run run) {
    subjects.push_back({collective, std::move(algorithm), false, false, quadratic, std::move(run)});
  };

  for (const auto motion : allfold::all_reduce_motions) {
    fold("all_reduce", motion, [motion](E& e, void* in, void* out, std::size_t bytes) {
      return message::all_reduce(e, motion, reduction(), in, out, bytes / 4);
    });
  }
  for (const auto motion : allfold::reduce_motions) {
    fold("reduce", motion, [motion](E& e, void* in, void* out, std::size_t bytes) {
      return message::reduce(e, motion, reduction(), in, out, bytes / 4, 0);
    });
  }
  for (const auto motion : allfold::reduce_scatter_motions) {
    fold("reduce_scatter", motion, [motion](E& e, void* in, void* out, std::size_t bytes) {
      return message::reduce_scatter(e, motion, reduction(), in, out, Parts::even(bytes / 4, e.world_size(), 1));
    });
  }
  for (const auto motion : allfold::broadcast_motions) {
    move("broadcast", std::string(name(motion)), is_quadratic(motion),
         [motion](E& e, void* in, void*, std::size_t bytes) { return message::broadcast(e, motion, in, bytes, 0); });
  }
  for (const auto motion : allfold::all_gather_motions) {
    move("all_gather", std::string(name(motion)), is_quadratic(motion),
         [motion](E& e, void* in, void* out, std::size_t bytes) {
           return message::all_gather(e, motion, in, out, each(e, bytes));
         });
  }
  for (const auto motion : allfold::all_to_all_motions) {
    move("all_to_all", std::string(name(motion)), is_quadratic(motion),
         [motion](E& e, void* in, void* out, std::size_t bytes) {
           return message::all_to_all(e, motion, in, out, each(e, bytes));
         });
  }
  move("gather", "knomial", false, [](E& e, void* in, void* out, std::size_t bytes) {
    return message::gather_knomial(e, in, out, each(e, bytes), 0);
  });
  move("gather", "linear", false, [](E& e, void* in, void* out, std::size_t bytes) {
    return message::gather_linear(e, in, out, Parts::equal(each(e, bytes)), 0);
  });
  move("scatter", "knomial", false, [](E& e, void* in, void* out, std::size_t bytes) {
    return message::scatter_knomial(e, in, out, each(e, bytes), 0);
  });
  move("scatter", "linear", false, [](E& e, void* in, void* out, std::size_t bytes) {
    return message::scatter_linear(e, in, out, Parts::equal(each(e, bytes)), 0);
  });
  move("barrier", "dissemination", false,
       [](E& e, void*, void*, std::size_t) { return message::barrier_dissemination(e); });
  return subjects;
}

}  // namespace scale
