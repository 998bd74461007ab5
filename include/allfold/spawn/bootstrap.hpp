// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <allfold/base/concat.hpp>
#include <allfold/base/environment.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/function_ref.hpp>
#include <allfold/base/hash.hpp>
#include <allfold/base/variables.hpp>
#include <allfold/spawn/slurm.hpp>

namespace allfold {

/// Finds a variable by its name; nothing if it is unset or empty.
using VariableLookup = FunctionRef<std::optional<std::string>(const char*)>;

namespace detail {

/// The most ranks that a launcher's variables may speak of.
inline constexpr int max_world_size = 1 << 20;

/// The variables by which one launcher tells a process its rank, and one or two that name the job: set alike on all of
/// its ranks, and for another job otherwise.
struct LauncherVariables {
  const char* rank;
  const char* world_size;
  const char* local_rank;
  const char* local_world_size;
  const char* job[2];
};

inline constexpr LauncherVariables own_variables{
    "ALLFOLD_RANK", "ALLFOLD_WORLD_SIZE", "ALLFOLD_LOCAL_RANK", "ALLFOLD_LOCAL_WORLD_SIZE", {}};
inline constexpr LauncherVariables torchrun_variables{
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", {"TORCHELASTIC_RUN_ID"}};
inline constexpr LauncherVariables open_mpi_variables{"OMPI_COMM_WORLD_RANK",
                                                      "OMPI_COMM_WORLD_SIZE",
                                                      "OMPI_COMM_WORLD_LOCAL_RANK",
                                                      "OMPI_COMM_WORLD_LOCAL_SIZE",
                                                      {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"}};
inline constexpr LauncherVariables mpich_variables{
    "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", {"PMI_JOBID", "SLURM_JOB_ID"}};

ALLFOLD_COLD inline std::optional<long long> whole_number(const char* name, const std::optional<std::string>& text,
                                                          long long low, long long high) {
  if (!text) return std::nullopt;
  long long number = 0;
  const char* const end = text->data() + text->size();
  const auto [stop, error] = std::from_chars(text->data(), end, number);
  if (error != std::errc() || stop != end || number < low || number > high) {
    throw UsageError("environment", {name, " is \"", *text, "\"; expected a whole number from ", low, " to ", high});
  }
  return number;
}

/// Reads a rank and the number of ranks; false if neither is set.
ALLFOLD_COLD inline bool read_pair(VariableLookup lookup, const char* rank_name, const char* size_name, int& rank,
                                   int& size) {
  const std::optional<long long> found_rank = whole_number(rank_name, lookup(rank_name), 0, max_world_size - 1);
  const std::optional<long long> found_size = whole_number(size_name, lookup(size_name), 1, max_world_size);
  if (!found_rank && !found_size) return false;
  if (!found_rank || !found_size) {
    const char* const present = found_rank ? rank_name : size_name;
    const char* const absent = found_rank ? size_name : rank_name;
    throw UsageError("environment", {present, " is set but ", absent, " is not; expected both or neither; try setting ",
                                     absent, " or unsetting ", present});
  }
  if (*found_rank >= *found_size) {
    throw UsageError("environment", {rank_name, " is ", *found_rank, " but ", size_name, " is ", *found_size,
                                     "; expected a rank from 0 to ", *found_size - 1});
  }
  rank = static_cast<int>(*found_rank);
  size = static_cast<int>(*found_size);
  return true;
}

/// A port for a job that was given none: the same on all its ranks, most likely another for another job, and below the
/// ports that kernels hand out on their own.
constexpr std::uint16_t port_of_job(std::string_view job) noexcept {
  return static_cast<std::uint16_t>(20000 + hash_mix(fnv1a(job)) % 10000);
}

/// Names the job after those of `names` that are set, and takes a port of its own for it.
ALLFOLD_COLD inline void adopt_job(VariableLookup lookup, const char* const (&names)[2], Environment& environment) {
  std::string job;
  for (const char* const name : names) {
    const std::optional<std::string> value = name == nullptr ? std::nullopt : lookup(name);
    if (value) job.append("-").append(*value);
  }
  if (job.empty()) return;
  environment.job.append(job);
  environment.meeting_port = port_of_job(environment.job);
}

/// Reads one launcher's variables; false if they are not set. Where they do not tell the local ranks, all ranks are
/// taken to be on this host.
ALLFOLD_COLD inline bool read_ranks(VariableLookup lookup, const LauncherVariables& names, Environment& environment) {
  if (!read_pair(lookup, names.rank, names.world_size, environment.rank, environment.world_size)) return false;
  if (!read_pair(lookup, names.local_rank, names.local_world_size, environment.local_rank,
                 environment.local_world_size)) {
    environment.local_rank = environment.rank;
    environment.local_world_size = environment.world_size;
  }
  if (environment.local_world_size > environment.world_size) {
    throw UsageError("environment",
                     {names.local_world_size, " is ", environment.local_world_size, " but ", names.world_size, " is ",
                      environment.world_size, "; expected no more ranks on one host than in all"});
  }
  adopt_job(lookup, names.job, environment);
  return true;
}

/// Whether `srun` started this process. A batch script has SLURM_PROCID and SLURM_NTASKS too, but runs once.
ALLFOLD_COLD inline bool in_slurm_step(VariableLookup lookup) {
  return lookup("SLURM_PROCID") && (lookup("SLURM_STEP_NODELIST") || lookup("SLURM_STEP_ID"));
}

/// Reads a SLURM step's variables; its first host is where rank 0 runs.
ALLFOLD_COLD inline void read_slurm_step(VariableLookup lookup, Environment& environment) {
  const char* const size_name = lookup("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
  read_pair(lookup, "SLURM_PROCID", size_name, environment.rank, environment.world_size);
  adopt_job(lookup, {"SLURM_JOB_ID", "SLURM_STEP_ID"}, environment);
  environment.local_rank = environment.rank;
  environment.local_world_size = environment.world_size;
  const int last = environment.world_size - 1;
  const std::optional<long long> local = whole_number("SLURM_LOCALID", lookup("SLURM_LOCALID"), 0, last);
  const std::optional<long long> node = whole_number("SLURM_NODEID", lookup("SLURM_NODEID"), 0, last);
  if (const auto tasks = lookup("SLURM_STEP_TASKS_PER_NODE"); tasks && local && node) {
    const std::optional<int> here = slurm_tasks_of_node(*tasks, static_cast<int>(*node));
    if (!here || *here > environment.world_size || *local >= *here) {
      throw UsageError("environment", {"SLURM_STEP_TASKS_PER_NODE is \"", *tasks, "\" and SLURM_LOCALID ", *local,
                                       " on node ", *node, "; expected a list such as 2(x3),1 with more tasks there"});
    }
    environment.local_rank = static_cast<int>(*local);
    environment.local_world_size = *here;
  }
  const std::optional<std::string> hosts = lookup("SLURM_STEP_NODELIST");
  if (!hosts) return;
  const std::optional<std::string> first = first_slurm_host(*hosts);
  if (!first) {
    throw UsageError("environment",
                     {"SLURM_STEP_NODELIST is \"", *hosts, "\"; expected a list such as node[01-03,7],gpu5"});
  }
  // A name that stands alone means one host: then loopback is enough, and asks no resolver.
  if (*first != *hosts) environment.meeting_host = *first;
}

ALLFOLD_COLD inline std::uint16_t read_port(const char* name, const std::string& text) {
  return static_cast<std::uint16_t>(*whole_number(name, text, 1, 65535));
}

/// ALLFOLD_MEETING: `host:port`, `[v6]:port` or a directory's absolute path.
ALLFOLD_COLD inline void read_meeting(const std::string& text, Environment& environment) {
  if (text[0] == '/') {
    environment.meeting_directory = text;
    return;
  }
  const std::size_t colon = text.rfind(':');
  const std::size_t before = colon == std::string::npos ? 0 : colon;
  const bool bracketed = before > 2 && text[0] == '[' && text[before - 1] == ']';
  const std::string host = bracketed ? text.substr(1, before - 2) : text.substr(0, before);
  if (host.empty() || host.find_first_of("[]") != std::string::npos ||
      (!bracketed && host.find(':') != std::string::npos)) {
    throw UsageError("environment", {"ALLFOLD_MEETING is \"", text,
                                     "\"; expected host:port, [IPv6 address]:port, or a directory's absolute path"});
  }
  environment.meeting_host = host;
  environment.meeting_port = read_port("the port in ALLFOLD_MEETING", text.substr(colon + 1));
}

/// The meeting point that the user or torchrun gives, in place of what the launcher's variables implied.
ALLFOLD_COLD inline void read_meeting_point(VariableLookup lookup, Environment& environment) {
  if (const std::optional<std::string> meeting = lookup("ALLFOLD_MEETING")) {
    read_meeting(*meeting, environment);
    return;
  }
  const std::optional<std::string> address = lookup("MASTER_ADDR");
  const std::optional<std::string> port = lookup("MASTER_PORT");
  if (port) {
    const std::uint16_t number = read_port("MASTER_PORT", *port);
    // torchrun's agent may serve a store of its own at that port: then meet at another one.
    const bool taken = lookup("TORCHELASTIC_USE_AGENT_STORE") == "True";
    environment.meeting_port = taken ? port_of_job(concat({environment.job, ":", unsigned{number}})) : number;
  }
  if (address) {
    environment.meeting_host = *address;
  } else if (environment.local_world_size < environment.world_size && environment.meeting_host == "127.0.0.1") {
    throw UsageError("environment", {"only ", environment.local_world_size, " of ", environment.world_size,
                                     " ranks are on this host and nothing tells where to meet; expected "
                                     "ALLFOLD_MEETING, or MASTER_ADDR and MASTER_PORT; try setting ALLFOLD_MEETING to "
                                     "HOST:PORT, with rank 0's host, for all ranks"});
  }
}

}  // namespace detail

/// Who this process is and where it meets the other ranks, from the variables that `lookup` finds. The first of these
/// that is set tells the ranks:
///   ALLFOLD_RANK, ALLFOLD_WORLD_SIZE, and at will ALLFOLD_LOCAL_RANK with ALLFOLD_LOCAL_WORLD_SIZE;
///   RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE (torchrun); Open MPI's; MPICH's (Hydra's); those of a SLURM step.
/// With none of them, a world of one. The first of these tells where the ranks meet: ALLFOLD_MEETING (`host:port`,
/// `[v6]:port`, or the absolute path of a directory for a FileStore); MASTER_ADDR with MASTER_PORT; what the launcher
/// implies: loopback if all ranks are on one host, else (SLURM) the first host of the step, and a port made of the
/// job's number.
/// ALLFOLD_SECRET, any text, is what all ranks' stores must know.
/// @throws UsageError if variables are half set, no numbers, contradict one another, or name no meeting point.
ALLFOLD_COLD inline Environment environment_of(VariableLookup lookup) {
  Environment environment;
  // Under SLURM's own PMI the variables of MPICH do not tell the local ranks, but those of the step do.
  const bool slurm = detail::in_slurm_step(lookup) && !lookup(detail::mpich_variables.local_rank);
  const bool found = detail::read_ranks(lookup, detail::own_variables, environment) ||
                     detail::read_ranks(lookup, detail::torchrun_variables, environment) ||
                     detail::read_ranks(lookup, detail::open_mpi_variables, environment) ||
                     (!slurm && detail::read_ranks(lookup, detail::mpich_variables, environment));
  if (!found && slurm) detail::read_slurm_step(lookup, environment);
  detail::read_meeting_point(lookup, environment);
  environment.secret = lookup("ALLFOLD_SECRET").value_or("");
  return environment;
}

/// Who this process is and where it meets the other ranks, from its environment variables: environment_of().
/// @throws UsageError likewise.
ALLFOLD_COLD inline Environment environment() {
  auto lookup = [](const char* name) { return variable(name); };
  return environment_of(lookup);
}

}  // namespace allfold
