// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include <doctest/doctest.h>

#include <allfold/spawn/bootstrap.hpp>

namespace {

using Variables = std::map<std::string, std::string>;

allfold::Environment environment_with(const Variables& variables) {
  auto lookup = [&variables](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional<std::string>(found->second);
  };
  return allfold::environment_of(lookup);
}

/// The message of the UsageError; empty if there was none.
std::string usage_error_with(const Variables& variables) {
  try {
    environment_with(variables);
  } catch (const allfold::UsageError& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

void check_ranks(const allfold::Environment& environment, int rank, int world_size, int local_rank,
                 int local_world_size) {
  CHECK(environment.rank == rank);
  CHECK(environment.world_size == world_size);
  CHECK(environment.local_rank == local_rank);
  CHECK(environment.local_world_size == local_world_size);
}

bool is_derived(std::uint16_t port) { return port >= 20000 && port < 30000; }

const Variables torchrun{{"RANK", "5"},           {"WORLD_SIZE", "8"},
                         {"LOCAL_RANK", "1"},     {"LOCAL_WORLD_SIZE", "4"},
                         {"MASTER_ADDR", "head"}, {"MASTER_PORT", "1234"}};
const Variables open_mpi{{"OMPI_COMM_WORLD_RANK", "1"},
                         {"OMPI_COMM_WORLD_SIZE", "2"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                         {"PMIX_NAMESPACE", "2055405569"}};
const Variables slurm{{"SLURM_PROCID", "3"},    {"SLURM_NTASKS", "7"},
                      {"SLURM_LOCALID", "1"},   {"SLURM_NODEID", "1"},
                      {"SLURM_STEP_ID", "0"},   {"SLURM_STEP_NODELIST", "node[01-03,7],gpu5"},
                      {"SLURM_JOB_ID", "4711"}, {"SLURM_STEP_TASKS_PER_NODE", "2(x3),1"}};

Variables with(Variables variables, std::initializer_list<std::pair<const char*, const char*>> changes) {
  for (const auto& [name, value] : changes) variables[name] = value;
  return variables;
}

Variables without(Variables variables, const char* name) {
  variables.erase(name);
  return variables;
}

}  // namespace

TEST_CASE("no variables: a world of one") {
  const allfold::Environment environment = environment_with({});
  check_ranks(environment, 0, 1, 0, 1);
  CHECK(environment.listening_socket == -1);
  CHECK(environment.meeting_directory.empty());
}

TEST_CASE("allfold's own variables go before all others") {
  const Variables own = with(torchrun, {{"ALLFOLD_RANK", "2"},
                                        {"ALLFOLD_WORLD_SIZE", "3"},
                                        {"ALLFOLD_LOCAL_RANK", "0"},
                                        {"ALLFOLD_LOCAL_WORLD_SIZE", "1"},
                                        {"ALLFOLD_MEETING", "there:99"}});
  const allfold::Environment environment = environment_with(own);
  check_ranks(environment, 2, 3, 0, 1);
  CHECK(environment.meeting_host == "there");
  CHECK(environment.meeting_port == 99);
}

TEST_CASE("a rank and a world size are enough: one host") {
  const allfold::Environment environment = environment_with({{"RANK", "1"}, {"WORLD_SIZE", "2"}});
  check_ranks(environment, 1, 2, 1, 2);
  CHECK(environment.meeting_host == "127.0.0.1");
  CHECK(environment.meeting_port == 29500);
}

TEST_CASE("ALLFOLD_MEETING: a host, an IPv6 address or a directory") {
  allfold::Environment environment = environment_with({{"ALLFOLD_MEETING", "[fe80::1%eth0]:65535"}});
  CHECK(environment.meeting_host == "fe80::1%eth0");
  CHECK(environment.meeting_port == 65535);
  environment = environment_with({{"ALLFOLD_MEETING", "10.0.0.1:1"}});
  CHECK(environment.meeting_host == "10.0.0.1");
  CHECK(environment.meeting_port == 1);
  environment = environment_with({{"ALLFOLD_MEETING", "/shared/a:b"}});
  CHECK(environment.meeting_directory == "/shared/a:b");
}

TEST_CASE("a broken ALLFOLD_MEETING") {
  for (const char* meeting : {"host", ":5", "host:", "host:0", "host:65536", "host:5x", "::1:5", "[]:5", "[::1]",
                              "[::1:5", "::1]:5", "relative/path"}) {
    CAPTURE(meeting);
    CHECK(contains(usage_error_with({{"ALLFOLD_MEETING", meeting}}), "ALLFOLD_MEETING"));
  }
}

TEST_CASE("torchrun") {
  allfold::Environment environment = environment_with(torchrun);
  check_ranks(environment, 5, 8, 1, 4);
  CHECK(environment.meeting_host == "head");
  CHECK(environment.meeting_port == 1234);

  // Its agent serves a store at the port it names.
  environment =
      environment_with(with(torchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "True"}, {"TORCHELASTIC_RUN_ID", "run"}}));
  CHECK(environment.meeting_host == "head");
  CHECK(is_derived(environment.meeting_port));
  CHECK(contains(environment.job, "run"));
}

TEST_CASE("Open MPI on one host needs no meeting point") {
  const allfold::Environment environment = environment_with(open_mpi);
  check_ranks(environment, 1, 2, 1, 2);
  CHECK(environment.meeting_host == "127.0.0.1");
  CHECK(is_derived(environment.meeting_port));

  const allfold::Environment other = environment_with(
      with(open_mpi, {{"PMIX_NAMESPACE", "77"}, {"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}}));
  CHECK(other.meeting_port != environment.meeting_port);
  CHECK(other.job != environment.job);
}

TEST_CASE("the port of a job is the same on all its ranks") {
  const allfold::Environment one = environment_with(open_mpi);
  const allfold::Environment zero = environment_with(
      with(open_mpi, {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}, {"PMIX_RANK", "0"}}));
  CHECK(zero.meeting_port == one.meeting_port);
  CHECK(zero.job == one.job);
}

TEST_CASE("Open MPI on several hosts needs one") {
  const Variables several = with(open_mpi, {{"OMPI_COMM_WORLD_SIZE", "4"}});
  CHECK(contains(usage_error_with(several), "only 2 of 4 ranks are on this host"));
  CHECK(contains(usage_error_with(several), "try setting ALLFOLD_MEETING"));
  CHECK(environment_with(with(several, {{"MASTER_ADDR", "head"}})).meeting_host == "head");
  CHECK(environment_with(with(several, {{"ALLFOLD_MEETING", "head:7"}})).meeting_port == 7);
  CHECK(environment_with(with(several, {{"ALLFOLD_MEETING", "/shared"}})).meeting_directory == "/shared");
}

TEST_CASE("MPICH") {
  const Variables mpich{{"PMI_RANK", "2"},
                        {"PMI_SIZE", "4"},
                        {"MPI_LOCALRANKID", "0"},
                        {"MPI_LOCALNRANKS", "2"},
                        {"MASTER_ADDR", "head"}};
  check_ranks(environment_with(mpich), 2, 4, 0, 2);
  check_ranks(environment_with({{"PMI_RANK", "2"}, {"PMI_SIZE", "4"}}), 2, 4, 2, 4);
  // mpiexec within a SLURM step: the step's tasks are the launcher's daemons.
  Variables both = slurm;
  both.insert(mpich.begin(), mpich.end());
  check_ranks(environment_with(both), 2, 4, 0, 2);
}

TEST_CASE("a SLURM step meets at its first host") {
  const allfold::Environment environment = environment_with(slurm);
  check_ranks(environment, 3, 7, 1, 2);
  CHECK(environment.meeting_host == "node01");
  CHECK(is_derived(environment.meeting_port));
  CHECK(environment_with(with(slurm, {{"SLURM_JOB_ID", "4712"}})).meeting_port != environment.meeting_port);
  CHECK(environment_with(with(slurm, {{"MASTER_ADDR", "head"}})).meeting_host == "head");
  // SLURM's own PMI sets PMI_RANK and PMI_SIZE, and nothing of the local ranks.
  check_ranks(environment_with(with(slurm, {{"PMI_RANK", "3"}, {"PMI_SIZE", "7"}})), 3, 7, 1, 2);
}

TEST_CASE("a SLURM step on one host uses loopback") {
  const Variables one = with(slurm, {{"SLURM_STEP_NODELIST", "gpu5"},
                                     {"SLURM_NODEID", "0"},
                                     {"SLURM_LOCALID", "3"},
                                     {"SLURM_STEP_TASKS_PER_NODE", "7"}});
  check_ranks(environment_with(one), 3, 7, 3, 7);
  CHECK(environment_with(one).meeting_host == "127.0.0.1");
}

TEST_CASE("a SLURM batch script, and a shell in an allocation, are worlds of one") {
  check_ranks(environment_with({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_JOB_ID", "1"}}), 0, 1, 0, 1);
  check_ranks(environment_with({{"SLURM_NTASKS", "8"}, {"SLURM_JOB_ID", "1"}}), 0, 1, 0, 1);
}

TEST_CASE("broken SLURM variables") {
  CHECK(contains(usage_error_with(with(slurm, {{"SLURM_STEP_NODELIST", "node[1"}})), "SLURM_STEP_NODELIST is"));
  CHECK(contains(usage_error_with(with(slurm, {{"SLURM_STEP_TASKS_PER_NODE", "1(x5)"}})), "SLURM_STEP_TASKS_PER_NODE"));
  CHECK(contains(usage_error_with(with(slurm, {{"SLURM_NODEID", "6"}})), "SLURM_STEP_TASKS_PER_NODE"));
  CHECK(contains(usage_error_with(without(slurm, "SLURM_NTASKS")), "SLURM_NTASKS is not"));
}

TEST_CASE("half-set variables") {
  CHECK(contains(usage_error_with({{"RANK", "1"}}), "RANK is set but WORLD_SIZE is not; expected both or neither"));
  CHECK(contains(usage_error_with({{"WORLD_SIZE", "2"}}), "WORLD_SIZE is set but RANK is not"));
  CHECK(contains(usage_error_with({{"ALLFOLD_RANK", "1"}}), "ALLFOLD_WORLD_SIZE is not"));
  CHECK(contains(usage_error_with({{"PMI_SIZE", "1"}}), "PMI_RANK is not"));
  CHECK(contains(usage_error_with(without(open_mpi, "OMPI_COMM_WORLD_SIZE")), "OMPI_COMM_WORLD_SIZE is not"));
  CHECK(contains(usage_error_with(without(torchrun, "LOCAL_RANK")), "LOCAL_RANK is not"));
}

TEST_CASE("variables that are no numbers, or out of range") {
  for (const char* rank : {"-1", "one", "1.0", " 1", "1 ", "0x1", "99999999999999999999"}) {
    CAPTURE(rank);
    CHECK(contains(usage_error_with({{"RANK", rank}, {"WORLD_SIZE", "2"}}), "RANK is \""));
  }
  CHECK(contains(usage_error_with({{"RANK", "0"}, {"WORLD_SIZE", "0"}}), "WORLD_SIZE is \"0\""));
  CHECK(contains(usage_error_with({{"RANK", "2"}, {"WORLD_SIZE", "2"}}), "expected a rank from 0 to 1"));
  CHECK(contains(usage_error_with(with(torchrun, {{"LOCAL_RANK", "4"}})), "LOCAL_RANK is 4"));
  CHECK(contains(usage_error_with(with(torchrun, {{"LOCAL_WORLD_SIZE", "9"}})), "LOCAL_WORLD_SIZE is 9"));
  CHECK(contains(usage_error_with(with(torchrun, {{"MASTER_PORT", "65536"}})), "MASTER_PORT is \"65536\""));
}

TEST_CASE("environment() reads the process's own variables") {
  ::setenv("ALLFOLD_RANK", "1", 1);
  ::setenv("ALLFOLD_WORLD_SIZE", "2", 1);
  ::setenv("ALLFOLD_LOCAL_RANK", "", 1);  // empty counts as unset
  const allfold::Environment environment = allfold::environment();
  ::unsetenv("ALLFOLD_RANK");
  ::unsetenv("ALLFOLD_WORLD_SIZE");
  ::unsetenv("ALLFOLD_LOCAL_RANK");
  check_ranks(environment, 1, 2, 1, 2);
}
