// SPDX-License-Identifier: Apache-2.0
#pragma once

/// What allfold_perf was asked to do: its command line, parsed.

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include <allfold/base/deadline.hpp>
#include <allfold/base/environment.hpp>
#include <allfold/policy/algorithm.hpp>

#include "peer_protocol.hpp"

namespace bench {

/// Where a call's operands lie: in symmetric memory, or in memory of the rank's own.
enum class Buffers { symmetric, private_memory };
inline const char* name(Buffers buffers) { return buffers == Buffers::symmetric ? "symmetric" : "private"; }

/// What the ranks compute on.
enum class Device { host, cuda };

/// How bytes move between CPU ranks.
enum class Transport { shm, ucx };
inline constexpr std::array transport_names = {"shm", "ucx"};
inline const char* name(Transport transport) { return transport_names[static_cast<std::size_t>(transport)]; }

/// How calls are made: one after another on the host, as nodes of a CUDA graph that is replayed, or enqueued one by
/// one on a CUDA stream.
enum class Mode { calls, graph, eager };
inline const char* name(Mode mode) { return mode == Mode::calls ? "calls" : mode == Mode::graph ? "graph" : "eager"; }

/// The defaults of CPU ranks; apply_cuda_defaults in plan.cpp has those of GPUs.
struct Plan {
  Device device = Device::host;
  Transport transport = Transport::shm;
  std::vector<Collective> collectives = {Collective::all_reduce};
  int ranks = 0;
  std::vector<int> cores;  ///< that this process may use; a CPU rank r is bound to core r, round robin
  bool threads = false;
  allfold::Environment environment;  ///< of this process, as its launcher tells
  std::size_t min_bytes = 8;
  std::size_t max_bytes = std::size_t{64} << 20;
  std::size_t factor = 4;
  std::vector<std::size_t> listed_sizes;  ///< in place of the range, where there are any
  ElementType type = ElementType::float32;
  Operator op = Operator::sum;
  std::vector<Buffers> buffers = {Buffers::symmetric, Buffers::private_memory};
  std::vector<Mode> modes = {Mode::calls};
  bool in_place = false;
  /// Empty: what the selector chooses.
  std::vector<allfold::Algorithm> algorithms;
  /// Of one batch, and of what comes untimed before a turn; none: from the time budget.
  std::optional<long> iterations;
  std::optional<int> warmup;
  double budget_ms = 100;  ///< timed work of one row
  int rounds = 5;          ///< turns of each contestant at one size
  int batches = 3;         ///< of one turn
  bool check = true;
  double timeout_s = 600;
  allfold::Deadline deadline = allfold::Deadline(allfold::Clock::time_point::max());  ///< from the timeout
  int blocks = 0;            ///< Options::blocks; 0: the transport's choice
  int graph_depth = 0;       ///< calls in one graph; 0: by size
  double ceiling_gbs = 365;  ///< what each GPU can store to its peers, all at once
  std::string nccl_library;  ///< empty: where the loader and the toolkit have it
  std::string table_file;    ///< the selector's table; empty: the built-in one
  std::string csv_file, json_file, tune_file;
  std::vector<std::string> peers;
  bool any_peers = false;    ///< those that can be started will do
  std::string peer_program;  ///< empty: peer_mpi beside this program
  std::string command_line;

  /// mpirun, torchrun or srun started this rank already.
  bool launched_elsewhere() const { return environment.world_size > 1; }
  int world_size() const { return launched_elsewhere() ? environment.world_size : ranks; }
  /// Where algorithms take part that fold in an order of their own no sum may round: the hybrid cube mesh, and those
  /// over messages.
  bool whole_numbers() const;
  std::size_t element_bytes() const { return size_of(type); }
  /// Bytes of each message: whole elements, ascending.
  std::vector<std::size_t> sizes() const;
};

/// Parses the command line. Ends the process after --help and after an error.
/// @throws allfold::UsageError if a launcher's variables contradict one another.
Plan parse_plan(int argc, char** argv);

}  // namespace bench
