// SPDX-License-Identifier: Apache-2.0
#include "subjects.hpp"

#include <algorithm>

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

namespace {

namespace message = allfold::message;
using allfold::Parts;
using Endpoint = allfold::SimulatedEndpoint;
using Run = decltype(Subject::run);

/// Only time passes: nothing is ever read here, or written.
void* memory() { return allfold::SimulatedNetwork::no_memory(); }

const allfold::Reduction<allfold::Sum, float> float_sum{allfold::sum};
allfold::MessageReduction reduction() { return allfold::host_reduction(float_sum); }

/// A byte at least.
std::size_t each(const Endpoint& e, std::size_t bytes) {
  const auto ranks = static_cast<std::size_t>(e.world_size());
  return (bytes + ranks - 1) / ranks;
}
Parts float_parts(const Endpoint& e, std::size_t bytes) { return Parts::even(bytes / 4, e.world_size(), 1); }

template <class Motion>
bool is_quadratic(Motion motion) {
  const std::string_view text = name(motion);
  return text == "ring" || text == "direct" || text == "pairwise" || text == "scatter_all_gather";
}

}  // namespace

std::vector<Subject> all_subjects() {
  std::vector<Subject> subjects;
  const auto fold = [&](const char* collective, auto motion, Run run) {
    subjects.push_back(
        {collective, std::string(name(motion)), is_reproducible(motion), true, is_quadratic(motion), std::move(run)});
  };
  const auto move = [&](const char* collective, std::string algorithm, bool quadratic, Run run) {
    subjects.push_back({collective, std::move(algorithm), false, false, quadratic, std::move(run)});
  };

  for (const auto motion : allfold::all_reduce_motions) {
    fold("all_reduce", motion, [motion](Endpoint& e, std::size_t bytes) {
      return message::all_reduce(e, motion, reduction(), memory(), memory(), bytes / 4);
    });
  }
  for (const auto motion : allfold::reduce_motions) {
    fold("reduce", motion, [motion](Endpoint& e, std::size_t bytes) {
      return message::reduce(e, motion, reduction(), memory(), memory(), bytes / 4, 0);
    });
  }
  for (const auto motion : allfold::reduce_scatter_motions) {
    fold("reduce_scatter", motion, [motion](Endpoint& e, std::size_t bytes) {
      return message::reduce_scatter(e, motion, reduction(), memory(), memory(), float_parts(e, bytes));
    });
  }
  for (const auto motion : allfold::broadcast_motions) {
    move("broadcast", std::string(name(motion)), is_quadratic(motion),
         [motion](Endpoint& e, std::size_t bytes) { return message::broadcast(e, motion, memory(), bytes, 0); });
  }
  for (const auto motion : allfold::all_gather_motions) {
    move("all_gather", std::string(name(motion)), is_quadratic(motion), [motion](Endpoint& e, std::size_t bytes) {
      return message::all_gather(e, motion, memory(), memory(), each(e, bytes));
    });
  }
  for (const auto motion : allfold::all_to_all_motions) {
    move("all_to_all", std::string(name(motion)), is_quadratic(motion), [motion](Endpoint& e, std::size_t bytes) {
      return message::all_to_all(e, motion, memory(), memory(), each(e, bytes));
    });
  }
  move("gather", "knomial", false, [](Endpoint& e, std::size_t bytes) {
    return message::gather_knomial(e, memory(), memory(), each(e, bytes), 0);
  });
  move("gather", "linear", false, [](Endpoint& e, std::size_t bytes) {
    return message::gather_linear(e, memory(), memory(), Parts::equal(each(e, bytes)), 0);
  });
  move("scatter", "knomial", false, [](Endpoint& e, std::size_t bytes) {
    return message::scatter_knomial(e, memory(), memory(), each(e, bytes), 0);
  });
  move("scatter", "linear", false, [](Endpoint& e, std::size_t bytes) {
    return message::scatter_linear(e, memory(), memory(), Parts::equal(each(e, bytes)), 0);
  });
  move("barrier", "dissemination", false, [](Endpoint& e, std::size_t) { return message::barrier_dissemination(e); });
  return subjects;
}

std::string chosen_algorithm(const std::string& collective, const allfold::MessageQuery& query) {
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

}  // namespace scale
