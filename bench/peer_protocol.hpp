// SPDX-License-Identifier: Apache-2.0
#pragma once

/// What allfold_perf and a peer program say to one another over named pipes, and the little that both need so that
/// they measure alike. No header of allfold: a peer is built without it.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <sched.h>
#include <unistd.h>

namespace bench {

enum class ElementType : std::int32_t { float32, float64, int32, float16, bfloat16 };
enum class Operator : std::int32_t { sum, max, avg };
enum class Collective : std::int32_t { all_reduce, all_gather, reduce_scatter, all_to_all, broadcast };

inline constexpr std::array type_names = {"float", "double", "int32", "float16", "bfloat16"};
inline constexpr std::array operator_names = {"sum", "max", "avg"};
inline constexpr std::array collective_names = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all",
                                                "broadcast"};

inline const char* name(ElementType type) { return type_names[static_cast<std::size_t>(type)]; }
inline const char* name(Operator op) { return operator_names[static_cast<std::size_t>(op)]; }
inline const char* name(Collective collective) { return collective_names[static_cast<std::size_t>(collective)]; }

/// Elements of what a rank passes in, and of what it gets, where `count` is that of the size that is timed: of the
/// vector that is reduced or broadcast, of what a rank gives to an all-gather, or has for each rank in an all-to-all.
/// In a reduce-scatter `out` is room for the whole vector, so that every rank's part fits.
inline std::size_t in_count(Collective collective, std::size_t count, int ranks) {
  return collective == Collective::all_to_all ? count * static_cast<std::size_t>(ranks) : count;
}
inline std::size_t out_count(Collective collective, std::size_t count, int ranks) {
  const bool of_all = collective == Collective::all_to_all || collective == Collective::all_gather;
  return of_all ? count * static_cast<std::size_t>(ranks) : count;
}

/// Where rank `rank`'s part of `count` elements begins in a reduce-scatter; the first ranks have one element more.
inline std::size_t part_begin(std::size_t count, int rank, int ranks) {
  const auto r = static_cast<std::size_t>(rank), p = static_cast<std::size_t>(ranks);
  return r * (count / p) + std::min(r, count % p);
}

inline std::size_t size_of(ElementType type) {
  constexpr std::size_t sizes[] = {4, 8, 4, 2, 2};
  return sizes[static_cast<std::size_t>(type)];
}

inline constexpr int max_batches_per_turn = 16;

/// One turn of a peer: some calls that are not timed, then batches of back-to-back calls.
struct PeerCommand {
  enum class Verb : std::int32_t { quit, run } verb = Verb::quit;
  ElementType type = ElementType::float32;
  Operator op = Operator::sum;
  Collective collective = Collective::all_reduce;
  std::int32_t in_place = 0;
  std::int32_t batches = 1;
  std::int32_t warmup = 1;
  std::int64_t iterations = 1;
  std::int64_t count = 0;
};

/// The mean time of one call in each batch, microseconds: the slowest rank's. The first reply of all says "ready".
struct PeerReply {
  std::int32_t correct = 1;
  std::int32_t batches = 0;
  double us[max_batches_per_turn] = {};
};

// Both fit PIPE_BUF, so that a write is one piece.
static_assert(std::is_trivially_copyable_v<PeerCommand> && sizeof(PeerCommand) <= 4096);
static_assert(std::is_trivially_copyable_v<PeerReply> && sizeof(PeerReply) <= 4096);

inline std::string command_pipe(const std::string& directory, int rank) {
  return directory + "/command." + std::to_string(rank);
}
inline std::string reply_pipe(const std::string& directory) { return directory + "/reply"; }

/// The cores that this process may use, in ascending order.
inline std::vector<int> usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(core, &set)) cores.push_back(core);
    }
  }
  return cores;
}

/// Binds the calling thread to one core, round robin over `cores`. Says whether the system agreed.
inline bool pin(int rank, const std::vector<int>& cores) {
  if (cores.empty()) return false;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cores[static_cast<std::size_t>(rank) % cores.size()], &set);
  return sched_setaffinity(0, sizeof set, &set) == 0;
}

inline std::string join(const std::vector<int>& numbers) {
  std::string text;
  for (const int n : numbers) {
    if (!text.empty()) text += ',';
    text += std::to_string(n);
  }
  return text;
}

inline std::vector<int> split_numbers(std::string_view text) {
  std::vector<int> numbers;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    numbers.push_back(std::atoi(std::string(text.substr(0, comma)).c_str()));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return numbers;
}

/// Microseconds that `body` takes.
template <class Body>
double time_us(Body&& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
}

/// The middle value; the mean of the two in the middle of an even number. 0 of none.
inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

template <class Record>
bool write_record(int fd, const Record& record) {
  return ::write(fd, &record, sizeof record) == static_cast<ssize_t>(sizeof record);
}

template <class Record>
bool read_record(int fd, Record& record) {
  return ::read(fd, &record, sizeof record) == static_cast<ssize_t>(sizeof record);
}

}  // namespace bench
