// SPDX-License-Identifier: Apache-2.0
#include <allfold/topology/nvml.hpp>

#include <cctype>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/topology/detect.hpp>
#include <allfold/topology/parse.hpp>

namespace {

using allfold::Identity;
using allfold::LinkMatrix;
using allfold::NvmlLibrary;
using allfold::NvmlTopology;
using allfold::SystemError;
using allfold::TopologyKind;
using allfold::UsageError;

constexpr int unknown_error = 999;
constexpr int gpu_is_lost = 15;
constexpr int remote_gpu = 0;
constexpr int remote_npu = 1;
constexpr int remote_unknown = 255;

/// One link of a made-up GPU, and what the library answers when it is asked about it.
struct Link {
  int remote_type = remote_gpu;
  int remote = -1;  // a GPU of the machine, or none of them
  bool capable = true;
  bool active = true;
  int capability_error = 0;
  int state_error = 0;
  int type_error = 0;
  int pci_error = 0;
};

struct Gpu {
  std::string uuid;
  std::string bus_id;
  std::vector<Link> links;
};

/// A made-up machine, of which one at a time stands behind the library.
struct Machine {
  std::vector<Gpu> gpus;
  int init_error = 0;
  int uuid_error = 0;
  int sessions = 0;
  int closed_sessions = 0;
  int absent_link_error = NvmlLibrary::invalid_argument;
  bool small_letters = false;  // as old drivers write the far ends of links

  Machine() { behind_library = this; }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine() { behind_library = nullptr; }

  static Machine* behind_library;

  void add_gpus(int count) {
    for (int i = 0; i < count; ++i) {
      char uuid[64], bus_id[32];
      std::snprintf(uuid, sizeof uuid, "GPU-%02x00fe01-02ab-ff04-0506-0708090a0b%02x", i, 255 - i);
      std::snprintf(bus_id, sizeof bus_id, "00000000:%02X:00.0", 0xA0 + i);
      gpus.push_back({uuid, bus_id, {}});
    }
  }
  void link(std::size_t a, std::size_t b, int count) {
    for (int i = 0; i < count; ++i) {
      gpus[a].links.push_back({.remote = static_cast<int>(b)});
      gpus[b].links.push_back({.remote = static_cast<int>(a)});
    }
  }
  void link_to_switches(std::size_t gpu, int count) {
    gpus[gpu].links.insert(gpus[gpu].links.end(), static_cast<std::size_t>(count),
                           {.remote_type = NvmlLibrary::remote_switch});
  }

  static Machine& now() { return *behind_library; }
  static NvmlLibrary::Device handle(std::size_t gpu) { return reinterpret_cast<NvmlLibrary::Device>(gpu + 1); }
  static Gpu& of(NvmlLibrary::Device device) { return now().gpus.at(reinterpret_cast<std::size_t>(device) - 1); }
  static Link* link_of(NvmlLibrary::Device device, unsigned link) {
    return link < of(device).links.size() ? &of(device).links[link] : nullptr;
  }
  static void write_address(const std::string& bus_id, NvmlLibrary::PciInfo* info) {
    std::memset(info, 0, sizeof *info);
    std::snprintf(info->bus_id, sizeof info->bus_id, "%s", bus_id.c_str());
  }
};

Machine* Machine::behind_library = nullptr;

NvmlLibrary library() {
  NvmlLibrary made_up;
  made_up.init = [] {
    if (Machine::now().init_error == 0) ++Machine::now().sessions;
    return Machine::now().init_error;
  };
  made_up.shutdown = [] {
    ++Machine::now().closed_sessions;
    return 0;
  };
  made_up.error_string = [](int error) -> const char* {
    return error == NvmlLibrary::driver_not_loaded ? "Driver Not Loaded"
           : error == gpu_is_lost                  ? "GPU is lost"
                                                   : "Unknown Error";
  };
  made_up.device_by_uuid = [](const char* uuid, NvmlLibrary::Device* device) {
    if (Machine::now().uuid_error != 0) return Machine::now().uuid_error;
    for (std::size_t i = 0; i < Machine::now().gpus.size(); ++i) {
      if (Machine::now().gpus[i].uuid != uuid) continue;
      *device = Machine::handle(i);
      return 0;
    }
    return NvmlLibrary::not_found;
  };
  made_up.pci_info = [](NvmlLibrary::Device device, NvmlLibrary::PciInfo* info) {
    Machine::write_address(Machine::of(device).bus_id, info);
    return 0;
  };
  made_up.link_capability = [](NvmlLibrary::Device device, unsigned link, int which, unsigned* value) {
    if (which != NvmlLibrary::peer_to_peer) return NvmlLibrary::invalid_argument;
    const Link* const found = Machine::link_of(device, link);
    if (found == nullptr) return Machine::now().absent_link_error;
    *value = found->capable ? 1 : 0;
    return found->capability_error;
  };
  made_up.link_state = [](NvmlLibrary::Device device, unsigned link, int* state) {
    const Link* const found = Machine::link_of(device, link);
    if (found == nullptr) return Machine::now().absent_link_error;
    *state = found->active ? 1 : 0;
    return found->state_error;
  };
  made_up.link_remote_type = [](NvmlLibrary::Device device, unsigned link, int* type) {
    const Link* const found = Machine::link_of(device, link);
    if (found == nullptr) return Machine::now().absent_link_error;
    *type = found->remote_type;
    return found->type_error;
  };
  made_up.link_remote_pci = [](NvmlLibrary::Device device, unsigned link, NvmlLibrary::PciInfo* info) {
    const Link* const found = Machine::link_of(device, link);
    if (found == nullptr) return Machine::now().absent_link_error;
    std::string bus_id =
        found->remote < 0 ? "00000000:05:00.0" : Machine::now().gpus[static_cast<std::size_t>(found->remote)].bus_id;
    if (Machine::now().small_letters) {
      for (char& letter : bus_id) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    }
    Machine::write_address(bus_id, info);
    return found->pci_error;
  };
  return made_up;
}

/// A rank on the machine's GPU of this number, whose UUID is that of `add_gpus`.
Identity rank_on(int gpu) {
  Identity rank;
  rank.device = 0;
  const int id[] = {gpu, 0, 0xfe, 1, 2, 0xab, 0xff, 4, 5, 6, 7, 8, 9, 10, 11, 255 - gpu};
  for (int i = 0; i < 16; ++i) rank.device_id[i] = static_cast<char>(id[i]);
  return rank;
}

std::vector<Identity> ranks_on(const std::vector<int>& gpus) {
  std::vector<Identity> ranks;
  ranks.reserve(gpus.size());
  for (const int gpu : gpus) ranks.push_back(rank_on(gpu));
  return ranks;
}

std::vector<Identity> ranks_on_first(int gpus) {
  std::vector<int> numbers(static_cast<std::size_t>(gpus));
  std::iota(numbers.begin(), numbers.end(), 0);
  return ranks_on(numbers);
}

LinkMatrix links(const std::vector<Identity>& ranks) { return NvmlTopology(library()).links(ranks); }

template <class E>
std::string refusal(const std::vector<Identity>& ranks) {
  try {
    links(ranks);
  } catch (const E& error) {
    return error.what();
  }
  return "";
}

LinkMatrix load(const std::string& name, int gpus) {
  std::string path = __FILE__;
  path.resize(path.rfind("unit"));
  path += "fixtures/topology/" + name + ".txt";
  std::ifstream file(path);
  REQUIRE_MESSAGE(file.is_open(), path);
  std::stringstream text;
  text << file.rdbuf();
  return allfold::parse_link_matrix(text.str(), name, gpus);
}

struct Fixture {
  const char* name;
  int number;  // of GPUs, or of links
};

/// GPUs linked as the matrix says, without switches.
void build(Machine& machine, const LinkMatrix& matrix) {
  machine.add_gpus(matrix.world_size);
  for (int a = 0; a < matrix.world_size; ++a) {
    for (int b = 0; b < a; ++b) {
      machine.link(static_cast<std::size_t>(a), static_cast<std::size_t>(b), matrix.links[a][b]);
    }
  }
}

TEST_CASE("NvmlTopology counts the links of machines without switches as nvidia-smi does") {
  const Fixture fixtures[] = {
      {"dgx1_v100", 8},       {"dgx1_p100", 8},        {"hgx_h100_4", 4}, {"dgx1_v100_link_missing", 8},
      {"nvlink_bridge_2", 2}, {"nvlink_bridges_4", 4}, {"pcie_8", 8},     {"pcie_2", 2}};
  for (const Fixture& fixture : fixtures) {
    CAPTURE(fixture.name);
    const LinkMatrix expected = load(fixture.name, fixture.number);
    for (const bool small_letters : {false, true}) {
      Machine machine;
      build(machine, expected);
      machine.small_letters = small_letters;
      CHECK(links(ranks_on_first(fixture.number)) == expected);
      CHECK(machine.sessions == 1);
      CHECK(machine.closed_sessions == 1);
    }
  }
}

TEST_CASE("NvmlTopology takes GPUs that are linked to switches for linked to each other") {
  const Fixture fixtures[] = {{"hgx_h100_8", 18}, {"hgx_a100_8", 12}, {"dgx2_v100", 6}};
  for (const Fixture& fixture : fixtures) {
    CAPTURE(fixture.name);
    Machine machine;
    machine.add_gpus(8);
    for (std::size_t gpu = 0; gpu < 8; ++gpu) machine.link_to_switches(gpu, fixture.number);
    CHECK(links(ranks_on_first(8)) == load(fixture.name, 8));
    // Half of the machine, in any order.
    const LinkMatrix half = links(ranks_on({6, 1, 4, 3}));
    CHECK(classify(half) == TopologyKind::fully_connected);
    for (int a = 0; a < 4; ++a) {
      for (int b = 0; b < 4; ++b) CHECK(int{half.links[a][b]} == (a == b ? 0 : fixture.number));
    }
  }
}

TEST_CASE("NvmlTopology counts by ranks, not by the numbering of GPUs") {
  Machine machine;
  const LinkMatrix mesh = load("dgx1_v100", 8);
  build(machine, mesh);
  const std::vector<int> gpus{3, 7, 0, 5, 1, 6, 2, 4};
  const LinkMatrix found = links(ranks_on(gpus));
  CHECK(classify(found) == TopologyKind::hybrid_cube_mesh);
  for (int a = 0; a < 8; ++a) {
    for (int b = 0; b < 8; ++b) CHECK(int{found.links[a][b]} == int{mesh.links[gpus[a]][gpus[b]]});
  }
}

TEST_CASE("NvmlTopology leaves out links that are down or carry no peer-to-peer traffic") {
  Machine machine;
  machine.add_gpus(2);
  machine.link(0, 1, 4);
  machine.gpus[0].links[1].active = false;
  CHECK(int{links(ranks_on_first(2)).links[0][1]} == 3);
  machine.gpus[1].links[2].capable = false;
  CHECK(int{links(ranks_on_first(2)).links[0][1]} == 3);
  machine.gpus[1].links[3].active = false;
  CHECK(int{links(ranks_on_first(2)).links[1][0]} == 2);
  for (Link& link : machine.gpus[1].links) link.active = false;
  CHECK(classify(links(ranks_on_first(2))) == TopologyKind::unknown);
}

TEST_CASE("NvmlTopology counts as many links to switches as the GPU with fewer has") {
  Machine machine;
  machine.add_gpus(3);
  machine.link_to_switches(0, 18);
  machine.link_to_switches(1, 18);
  machine.gpus[1].links[0].active = false;
  const LinkMatrix found = links(ranks_on_first(3));
  CHECK(int{found.links[0][1]} == 17);
  CHECK(int{found.links[1][0]} == 17);
  CHECK_MESSAGE(int{found.links[0][2]} == 0, "a GPU without links to a switch");
  CHECK(int{links(ranks_on({2, 1, 0})).links[0][1]} == 0);
}

TEST_CASE("NvmlTopology passes over links to other devices, to GPUs of no rank, and of an unknown far end") {
  Machine machine;
  machine.add_gpus(3);
  machine.link(0, 1, 2);
  machine.link(1, 2, 2);
  machine.gpus[0].links.push_back({.remote_type = remote_npu});
  machine.gpus[1].links.push_back({.remote_type = remote_npu});
  CHECK(int{links(ranks_on({0, 1})).links[0][1]} == 2);
  CHECK(int{links(ranks_on({0, 2})).links[0][1]} == 0);
  SUBCASE("the address is enough") {
    for (Link& link : machine.gpus[0].links) link.remote_type = remote_unknown;
    for (Link& link : machine.gpus[1].links) link.type_error = NvmlLibrary::not_supported;
    CHECK(int{links(ranks_on({0, 1})).links[0][1]} == 2);
  }
  SUBCASE("neither type nor address") {
    machine.gpus[0].links[0].type_error = NvmlLibrary::not_supported;
    machine.gpus[0].links[0].pci_error = NvmlLibrary::not_supported;
    CHECK(int{links(ranks_on({0, 1})).links[0][1]} == 1);
  }
}

TEST_CASE("NvmlTopology passes over the link numbers that a GPU has not, one by one") {
  for (const int error : {NvmlLibrary::not_supported, NvmlLibrary::invalid_argument}) {
    Machine machine;
    machine.add_gpus(2);
    machine.absent_link_error = error;
    CHECK(int{links(ranks_on_first(2)).links[0][1]} == 0);
    machine.link(0, 1, 18);
    machine.gpus[0].links[3].capability_error = error;
    machine.gpus[0].links[5].state_error = error;
    CHECK(int{links(ranks_on_first(2)).links[0][1]} == 16);
  }
}

TEST_CASE("NvmlTopology gives ranks that share a GPU one link") {
  Machine machine;
  machine.add_gpus(2);
  machine.link(0, 1, 4);
  const LinkMatrix found = links(ranks_on({0, 1, 0}));
  CHECK(int{found.links[0][2]} == 1);
  CHECK(int{found.links[0][1]} == 4);
  CHECK(int{found.links[2][1]} == 4);
  CHECK(int{found.links[0][0]} == 0);
}

TEST_CASE("NvmlTopology asks nobody about a world of one rank") {
  Machine machine;
  const LinkMatrix found = links(ranks_on_first(1));
  CHECK(classify(found) == TopologyKind::fully_connected);
  CHECK(machine.sessions == 0);
}

TEST_CASE("NvmlTopology says which rank has no GPU, or one that is not known") {
  Machine machine;
  machine.add_gpus(2);
  std::vector<Identity> ranks = ranks_on_first(2);
  ranks[1].device = -1;
  CHECK(refusal<UsageError>(ranks) ==
        "allfold: topology: NvmlTopology finds the links between GPUs, and rank 1 computes on a CPU; expected a GPU "
        "for every rank; try FixedTopology");
  ranks = ranks_on({0, 0xb});
  CHECK(refusal<UsageError>(ranks) ==
        "allfold: topology: NVML does not know GPU-0b00fe01-02ab-ff04-0506-0708090a0bf4, the GPU of rank 1; expected a "
        "whole GPU that this container may see; try PeerAccessTopology");
  CHECK(machine.sessions == 1);
  CHECK(machine.closed_sessions == 1);
  CHECK(refusal<UsageError>(ranks_on_first(9)) ==
        "allfold: topology: a link matrix spans 1 to 8 ranks, got 9; try a message transport for larger worlds");
}

TEST_CASE("NvmlTopology says what failed, for which GPU, and what the driver says") {
  Machine machine;
  machine.add_gpus(2);
  machine.link(0, 1, 4);
  const std::vector<Identity> ranks = ranks_on_first(2);
  SUBCASE("no driver") {
    machine.init_error = NvmlLibrary::driver_not_loaded;
    CHECK(refusal<SystemError>(ranks) ==
          "allfold: topology: nvmlInit_v2 failed; NVML says \"Driver Not Loaded\" (9): No such device (errno 19)");
    CHECK(machine.closed_sessions == 0);
  }
  SUBCASE("a GPU that fell off the bus") {
    machine.uuid_error = gpu_is_lost;
    CHECK(refusal<SystemError>(ranks) ==
          "allfold: topology: nvmlDeviceGetHandleByUUID failed for GPU-0000fe01-02ab-ff04-0506-0708090a0bff, the GPU "
          "of rank 0; NVML says \"GPU is lost\" (15): Input/output error (errno 5)");
    CHECK(machine.closed_sessions == 1);
  }
  SUBCASE("a link") {
    Link& link = machine.gpus[1].links[2];
    std::string call;
    SUBCASE("capability") {
      link.capability_error = unknown_error;
      call = "nvmlDeviceGetNvLinkCapability";
    }
    SUBCASE("state") {
      link.state_error = unknown_error;
      call = "nvmlDeviceGetNvLinkState";
    }
    SUBCASE("type") {
      link.type_error = unknown_error;
      call = "nvmlDeviceGetNvLinkRemoteDeviceType";
    }
    SUBCASE("address") {
      link.pci_error = unknown_error;
      call = "nvmlDeviceGetNvLinkRemotePciInfo_v2";
    }
    CHECK(refusal<SystemError>(ranks) ==
          "allfold: topology: " + call +
              " failed for GPU-0100fe01-02ab-ff04-0506-0708090a0bfe, the GPU of rank 1, and its link 2; NVML says "
              "\"Unknown Error\" (999): Input/output error (errno 5)");
    CHECK(machine.closed_sessions == 1);
  }
}

std::string load_refusal(const char* file) {
  try {
    NvmlLibrary::load(file);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("NvmlLibrary::load says why there is no library, or which function it lacks") {
  CHECK(load_refusal("liballfold-is-not-there.so.1") ==
        "allfold: topology: NvmlTopology asks NVIDIA's driver, and its library cannot be loaded "
        "(liballfold-is-not-there.so.1: cannot open shared object file: No such file or directory); try "
        "PeerAccessTopology, or FixedTopology for ranks on CPU cores");
  CHECK(load_refusal("libc.so.6") ==
        "allfold: topology: libc.so.6 has no nvmlInit_v2; NvmlTopology expected a driver of version 470 or later; try "
        "PeerAccessTopology");
}

TEST_CASE("NvmlTopology by itself answers from this machine's driver, or says that there is none") {
  try {
    const LinkMatrix found = NvmlTopology().links(ranks_on({0, 1}));
    FAIL("the driver knows GPUs that are made up: ", found.world_size);
  } catch (const UsageError& error) {
    MESSAGE(std::string(error.what()));
  } catch (const SystemError& error) {
    MESSAGE(std::string(error.what()));
  }
}

}  // namespace
