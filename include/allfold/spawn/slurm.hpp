// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include <allfold/base/config.hpp>

namespace allfold {

/// The first host of a SLURM host list: `node01` of `node[01-03,7],gpu5`. Nothing if the list cannot be read.
ALLFOLD_COLD inline std::optional<std::string> first_slurm_host(std::string_view list) {
  std::string host;
  while (!list.empty() && list.front() != ',') {
    const char c = list.front();
    list.remove_prefix(1);
    if (c == ']' || c == ' ') return std::nullopt;
    if (c != '[') {
      host.push_back(c);
      continue;
    }
    const std::size_t close = list.find(']');
    if (close == std::string_view::npos) return std::nullopt;
    const std::string_view numbers = list.substr(0, close);
    const std::string_view number = numbers.substr(0, numbers.find_first_of(",-"));
    if (number.empty() || number.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
    host.append(number);
    list.remove_prefix(close + 1);
  }
  if (host.empty()) return std::nullopt;
  return host;
}

/// The number of tasks on one node, by its index, of a SLURM list: 1 for node 3 of `2(x3),1`. Nothing if the list
/// cannot be read or is shorter.
ALLFOLD_COLD inline std::optional<int> slurm_tasks_of_node(std::string_view list, int node) {
  while (!list.empty()) {
    const char* const end = list.data() + list.size();
    int tasks = 0;
    int nodes = 1;
    auto [at, error] = std::from_chars(list.data(), end, tasks);
    if (error != std::errc() || tasks < 1) return std::nullopt;
    if (end - at >= 2 && at[0] == '(' && at[1] == 'x') {
      const auto repeat = std::from_chars(at + 2, end, nodes);
      if (repeat.ec != std::errc() || nodes < 1 || repeat.ptr == end || *repeat.ptr != ')') return std::nullopt;
      at = repeat.ptr + 1;
    }
    if (node < nodes) return tasks;
    node -= nodes;
    if (at == end || *at != ',') return std::nullopt;
    list.remove_prefix(static_cast<std::size_t>(at - list.data()) + 1);
  }
  return std::nullopt;
}

}  // namespace allfold
