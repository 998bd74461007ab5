// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <unistd.h>

#include <allfold/base/cuda_check.cuh>
#include <allfold/base/unique_fd.hpp>
#include <allfold/base/variables.hpp>
#include <allfold/memory/descriptor_exchange.hpp>
#include <allfold/memory/device_memory.cuh>
#include <allfold/memory/window.hpp>
#include <allfold/policy/meeting.hpp>

namespace allfold {

/// How the ranks of a communicator hand memory of their GPUs to each other, be they processes or threads.
struct DeviceSharing {
  CudaDriver driver;
  int device = 0;                              ///< this rank's
  HandleType type = HandleType::descriptor;    ///< the same on every rank
  std::optional<DescriptorExchange> exchange;  ///< by which descriptors travel
  std::vector<ExchangeAddress> addresses;      ///< [world_size]
};

/// Where the driver has the channels of which a process must reach one, to make or import memory by fabric handles.
inline constexpr const char* fabric_channels = "/dev/nvidia-caps-imex-channels";

/// Fabric handles where every rank can make them and import what every other rank made; else descriptors. The
/// environment variable ALLFOLD_HANDLE_TYPE=fd or fabric, the same for every rank, decides instead.
/// @throws UsageError if fabric handles are asked for and not to be had; MismatchError if ranks ask for different
/// things.
ALLFOLD_COLD inline HandleType agree_on_handle_type(Meeting& meeting, const CudaDriver& driver, int device,
                                                    const char* channels = fabric_channels) {
  const Where where = meeting.where();
  const auto wish = choice_variable("ALLFOLD_HANDLE_TYPE", {"fd", "fabric"});
  struct Offer {
    FabricHandle handle = {};
    std::int32_t wish = -1;
    std::int32_t made = 0;
  } mine;
  mine.wish = wish ? static_cast<std::int32_t>(*wish) : -1;
  DeviceMemory page(driver, device, HandleType::fabric);
  // Without a channel the driver refuses, which tools that watch it report as an error of the program's.
  const bool may_ask = wish != std::size_t{0} && ::access(channels, R_OK | X_OK) == 0;
  mine.made = may_ask && page.try_fabric_page(mine.handle) ? 1 : 0;

  const std::vector<Offer> offers = meeting.all_gather("handle types", mine);
  int without = -1;  // a rank that cannot make them
  for (int r = 0; r < meeting.world_size(); ++r) {
    const Offer& theirs = offers[static_cast<std::size_t>(r)];
    if (theirs.wish != mine.wish) {
      throw MismatchError(where, r,
                          {"ranks disagree on ALLFOLD_HANDLE_TYPE, which rank ", r, " has set to something else; ",
                           "give every rank the same"});
    }
    if (theirs.made == 0 && without < 0) without = r;
  }
  if (without < 0) {
    std::int32_t stranger = -1;  // a rank whose page this one cannot import
    for (int r = 0; r < meeting.world_size(); ++r) {
      if (r == meeting.rank()) continue;
      if (!DeviceMemory(driver, device, HandleType::fabric).try_import(offers[static_cast<std::size_t>(r)].handle)) {
        stranger = r;
      }
    }
    for (const std::int32_t r : meeting.all_gather("fabric handles", stranger)) without = r >= 0 ? r : without;
    if (without < 0) return HandleType::fabric;
  }
  if (mine.wish != 1) return HandleType::descriptor;
  throw UsageError(where, {"ALLFOLD_HANDLE_TYPE asks for fabric handles, and rank ", without,
                           " has none that all ranks can import; expected GPUs whose driver offers them, and an IMEX ",
                           "channel in ", channels, " that every rank may open; try fd, or leave it out"});
}

/// One part of GPU memory per rank, all of them mapped for this rank's device.
struct DeviceParts {
  std::unique_ptr<DeviceMemory> part[max_window_ranks];

  Window window(std::size_t bytes, std::uint64_t serial, int world_size) const noexcept {
    return Window::over(part, bytes, serial, world_size);
  }
};

/// Makes the parts, zero at first: each rank makes its own, hands it to all, and maps all. `serial` tells this exchange
/// from others. Peers may still be mapping when this returns: meet before a GPU waits for theirs.
ALLFOLD_COLD inline DeviceParts share_device_memory(Meeting& meeting, DeviceSharing& sharing, std::uint32_t serial,
                                                    std::size_t bytes) {
  const Where where = meeting.where();
  const int me = meeting.rank();
  DeviceParts parts;
  for (int r = 0; r < meeting.world_size(); ++r) {
    parts.part[r] = std::make_unique<DeviceMemory>(sharing.driver, sharing.device, sharing.type);
  }
  DeviceMemory& mine = *parts.part[me];
  mine.create(where, bytes);
  check_cuda(where, sharing.driver.clear(mine.data(), mine.size()), {"symmetric memory could not be cleared"});

  // Whoever failed to make its part says so at the first step, before anyone waits for its handle.
  if (sharing.type == HandleType::fabric) {
    const std::vector<FabricHandle> handles = meeting.all_gather("share device memory", mine.fabric_handle(where));
    for (int r = 0; r < meeting.world_size(); ++r) {
      if (r != me) parts.part[r]->import(where, handles[static_cast<std::size_t>(r)], mine.size(), r);
    }
  } else {
    const UniqueFd fd = mine.descriptor(where);
    for (int r = 0; r < meeting.world_size(); ++r) {
      if (r == me) continue;
      sharing.exchange->send(where, sharing.addresses[static_cast<std::size_t>(r)], exchange_tag(serial, me), r,
                             fd.get(), meeting.deadline());
    }
    meeting.barrier("share device memory");
    for (int r = 0; r < meeting.world_size(); ++r) {
      if (r == me) continue;
      const UniqueFd theirs = sharing.exchange->receive(where, exchange_tag(serial, r), r, meeting.deadline());
      parts.part[r]->import(where, theirs.get(), mine.size(), r);
    }
  }
  return parts;
}

}  // namespace allfold
