// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <allfold/base/error.hpp>
#include <allfold/policy/identity.hpp>
#include <allfold/policy/link_matrix.hpp>
#include <allfold/policy/topology.hpp>
#include <allfold/topology/gpu_ranks.hpp>
#include <allfold/topology/nvml_library.hpp>

namespace allfold {

/// The NVLinks between the ranks' GPUs, counted by NVIDIA's management library, which is found at run time. A link
/// counts if it is up at both ends and carries peer-to-peer traffic. Links to a switch lead to every other GPU that has
/// such: as many as the GPU with fewer has. PCIe is no link. Ranks that share a GPU have one link.
/// The library knows every GPU of the host, whatever CUDA_VISIBLE_DEVICES says.
class NvmlTopology {
 public:
  using policy_category = topology_tag;

  /// Loads the driver's library when it is asked for links.
  NvmlTopology() noexcept = default;

  /// Asks this library instead, which a test or a simulator may have made up.
  explicit NvmlTopology(const NvmlLibrary& library) noexcept : library_(library) {}

  /// @throws UsageError if a rank has no GPU, there is no such library, or it does not know a rank's GPU.
  /// @throws SystemError if the driver fails.
  LinkMatrix links(std::span<const Identity> ranks) const {
    detail::check_gpu_ranks(ranks, "NvmlTopology");
    const auto world_size = static_cast<int>(ranks.size());
    Gpu gpus[max_window_ranks] = {};
    if (world_size > 1) survey(ranks, gpus);
    LinkMatrix matrix;
    matrix.world_size = world_size;
    for (int a = 0; a < world_size; ++a) {
      for (int b = 0; b < a; ++b) {
        if (ranks[static_cast<std::size_t>(a)].same_device(ranks[static_cast<std::size_t>(b)])) {
          matrix.connect(a, b);
          continue;
        }
        const int count = std::min(gpus[a].links_to[b], gpus[b].links_to[a]) +
                          std::min(gpus[a].links_to_switches, gpus[b].links_to_switches);
        matrix.connect(a, b, static_cast<std::uint8_t>(count));
      }
    }
    return matrix;
  }

 private:
  struct Gpu {
    NvmlLibrary::Device device;
    NvmlLibrary::PciInfo pci;
    int links_to_switches;
    int links_to[max_window_ranks];
  };

  /// Keeps the library initialised, and knows how to complain of it.
  class Session {
   public:
    explicit Session(const NvmlLibrary& library) : library_(library) {
      if (const int error = library_.init(); error != NvmlLibrary::success) fail("nvmlInit_v2", error);
    }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
    ~Session() { library_.shutdown(); }

    const NvmlLibrary& operator*() const noexcept { return library_; }

    [[noreturn]] ALLFOLD_COLD void fail(std::string_view call, int error, std::string_view about = "") const {
      const int number = error == NvmlLibrary::driver_not_loaded ? ENODEV
                         : error == NvmlLibrary::no_permission   ? EPERM
                                                                 : EIO;
      throw SystemError("topology", number,
                        {call, " failed", about, "; NVML says \"", library_.error_string(error), "\" (", error, ")"});
    }

   private:
    const NvmlLibrary& library_;
  };

  ALLFOLD_COLD void survey(std::span<const Identity> ranks, Gpu* gpus) const {
    const NvmlLibrary library = library_ ? *library_ : NvmlLibrary::load();
    const Session nvml(library);
    for (std::size_t r = 0; r < ranks.size(); ++r) find(nvml, ranks[r], r, gpus[r]);
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      for (unsigned link = 0; link < NvmlLibrary::max_links; ++link) {
        count(nvml, std::span<Gpu>(gpus, ranks.size()), ranks[r], r, link);
      }
    }
  }

  static void find(const Session& nvml, const Identity& rank, std::size_t number, Gpu& gpu) {
    const std::string name = detail::gpu_name(rank);
    const int error = (*nvml).device_by_uuid(name.c_str(), &gpu.device);
    if (error == NvmlLibrary::not_found || error == NvmlLibrary::invalid_argument) {
      throw UsageError("topology", {"NVML does not know ", name, ", the GPU of rank ", number,
                                    "; expected a whole GPU that this container may see; try PeerAccessTopology"});
    }
    if (error != NvmlLibrary::success) nvml.fail("nvmlDeviceGetHandleByUUID", error, about(rank, number));
    if (const int failure = (*nvml).pci_info(gpu.device, &gpu.pci); failure != NvmlLibrary::success) {
      nvml.fail("nvmlDeviceGetPciInfo_v3", failure, about(rank, number));
    }
  }

  /// Adds one link of one rank's GPU to what it leads to, if it is there and up.
  static void count(const Session& nvml, std::span<Gpu> gpus, const Identity& rank, std::size_t number, unsigned link) {
    Gpu& gpu = gpus[number];
    // A link that the GPU has not, or that hides what it leads to from a virtual machine, is refused in one of two
    // ways.
    const auto answers = [&](int error, std::string_view call) {
      if (error == NvmlLibrary::not_supported || error == NvmlLibrary::invalid_argument) return false;
      if (error != NvmlLibrary::success) nvml.fail(call, error, about(rank, number, static_cast<int>(link)));
      return true;
    };
    // Before Hopper, an idle link is brought up by the first question, so that its state comes second.
    unsigned capable = 0;
    const int asked = (*nvml).link_capability(gpu.device, link, NvmlLibrary::peer_to_peer, &capable);
    if (!answers(asked, "nvmlDeviceGetNvLinkCapability") || capable == 0) return;
    int state = 0;
    if (!answers((*nvml).link_state(gpu.device, link, &state), "nvmlDeviceGetNvLinkState")) return;
    if (state != NvmlLibrary::enabled) return;
    int type = -1;
    const int told = (*nvml).link_remote_type(gpu.device, link, &type);
    if (answers(told, "nvmlDeviceGetNvLinkRemoteDeviceType") && type == NvmlLibrary::remote_switch) {
      ++gpu.links_to_switches;
      return;
    }
    NvmlLibrary::PciInfo remote = {};
    if (!answers((*nvml).link_remote_pci(gpu.device, link, &remote), "nvmlDeviceGetNvLinkRemotePciInfo_v2")) return;
    for (std::size_t other = 0; other < gpus.size(); ++other) {
      if (same_address(gpus[other].pci, remote)) ++gpu.links_to[other];
    }
  }

  static bool same_address(const NvmlLibrary::PciInfo& a, const NvmlLibrary::PciInfo& b) noexcept {
    const auto small = [](char letter) {
      return letter >= 'A' && letter <= 'F' ? static_cast<char>(letter - 'A' + 'a') : letter;
    };
    for (std::size_t i = 0; i < sizeof a.bus_id; ++i) {
      if (small(a.bus_id[i]) != small(b.bus_id[i])) return false;
      if (a.bus_id[i] == '\0') break;
    }
    return true;
  }

  ALLFOLD_COLD static std::string about(const Identity& rank, std::size_t number, int link = -1) {
    const std::string whose = concat({" for ", detail::gpu_name(rank), ", the GPU of rank ", number});
    return link < 0 ? whose : concat({whose, ", and its link ", link});
  }

  std::optional<NvmlLibrary> library_;
};
static_assert(topology_policy<NvmlTopology>);

}  // namespace allfold
