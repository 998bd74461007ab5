// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <type_traits>

#include <dlfcn.h>

#include <allfold/base/error.hpp>

namespace allfold {

/// The functions of NVIDIA's management library that NvmlTopology calls, with the types and values that NVIDIA
/// promises to keep. They come from the driver at run time, so that no program needs NVML's header or library to be
/// built; a stand-in for a machine that is not at hand fills in its own.
struct NvmlLibrary {
  /// A GPU, as the library knows it.
  using Device = struct NvmlDevice*;

  /// nvmlPciInfo_t.
  struct PciInfo {
    char bus_id_legacy[16];
    unsigned domain;
    unsigned bus;
    unsigned device;
    unsigned pci_device_id;
    unsigned pci_subsystem_id;
    char bus_id[32];  ///< `00000000:3B:00.0`; old drivers write small letters
  };

  // nvmlReturn_t
  static constexpr int success = 0;
  static constexpr int invalid_argument = 2;
  static constexpr int not_supported = 3;
  static constexpr int no_permission = 4;
  static constexpr int not_found = 6;
  static constexpr int driver_not_loaded = 9;
  // nvmlNvLinkCapability_t, nvmlEnableState_t, nvmlIntNvLinkDeviceType_t
  static constexpr int peer_to_peer = 0;
  static constexpr int enabled = 1;
  static constexpr int remote_switch = 2;
  /// More than any GPU has; the library refuses the numbers beyond a GPU's own.
  static constexpr unsigned max_links = 64;

  int (*init)() = nullptr;                                                              // nvmlInit_v2
  int (*shutdown)() = nullptr;                                                          // nvmlShutdown
  const char* (*error_string)(int error) = nullptr;                                     // nvmlErrorString
  int (*device_by_uuid)(const char* uuid, Device* device) = nullptr;                    // nvmlDeviceGetHandleByUUID
  int (*pci_info)(Device device, PciInfo* info) = nullptr;                              // nvmlDeviceGetPciInfo_v3
  int (*link_capability)(Device, unsigned link, int which, unsigned* value) = nullptr;  // nvmlDeviceGetNvLinkCapability
  int (*link_state)(Device device, unsigned link, int* state) = nullptr;                // nvmlDeviceGetNvLinkState
  int (*link_remote_type)(Device, unsigned link, int* type) = nullptr;     // nvmlDeviceGetNvLinkRemoteDeviceType
  int (*link_remote_pci)(Device, unsigned link, PciInfo* info) = nullptr;  // nvmlDeviceGetNvLinkRemotePciInfo_v2

  /// The library of this machine's driver. It stays loaded.
  /// @throws UsageError if there is none, or one that is too old.
  ALLFOLD_COLD static NvmlLibrary load(const char* file = "libnvidia-ml.so.1") {
    void* const handle = ::dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (handle == nullptr) {
      const char* const reason = ::dlerror();
      throw UsageError("topology", {"NvmlTopology asks NVIDIA's driver, and its library cannot be loaded (",
                                    reason != nullptr ? reason : file,
                                    "); try PeerAccessTopology, or FixedTopology for ranks on CPU cores"});
    }
    NvmlLibrary library;
    std::string_view missing;
    const auto find = [&](auto& function, const char* name) {
      void* const address = ::dlsym(handle, name);
      if (address == nullptr && missing.empty()) missing = name;
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(address);
    };
    find(library.init, "nvmlInit_v2");
    find(library.shutdown, "nvmlShutdown");
    find(library.error_string, "nvmlErrorString");
    find(library.device_by_uuid, "nvmlDeviceGetHandleByUUID");
    find(library.pci_info, "nvmlDeviceGetPciInfo_v3");
    find(library.link_capability, "nvmlDeviceGetNvLinkCapability");
    find(library.link_state, "nvmlDeviceGetNvLinkState");
    find(library.link_remote_type, "nvmlDeviceGetNvLinkRemoteDeviceType");
    find(library.link_remote_pci, "nvmlDeviceGetNvLinkRemotePciInfo_v2");
    ::dlclose(handle);
    if (!missing.empty()) {
      throw UsageError("topology",
                       {file, " has no ", missing,
                        "; NvmlTopology expected a driver of version 470 or later; try PeerAccessTopology"});
    }
    return library;
  }
};
static_assert(sizeof(NvmlLibrary::PciInfo) == 68);

}  // namespace allfold
