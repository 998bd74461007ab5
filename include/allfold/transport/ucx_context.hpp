// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include <dirent.h>
#include <fcntl.h>
#include <ucp/api/ucp.h>
#include <ucs/memory/memory_type.h>
#include <unistd.h>

#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/transport/ucx_status.hpp>

namespace allfold {
namespace detail {

/// Whether UCX may take shared memory, as far as UCX_TLS says.
ALLFOLD_COLD inline bool may_share_memory() noexcept {
  const char* const ways = std::getenv("UCX_TLS");
  if (ways == nullptr) return true;
  for (const char* way : {"all", "sm", "shm", "mm", "posix", "sysv"}) {
    if (std::strstr(ways, way) != nullptr) return true;
  }
  return false;
}

/// The longest receive buffer that the host lets a socket ask for; 0 if it does not tell.
ALLFOLD_COLD inline long longest_receive_buffer() noexcept {
  const UniqueFd file(::open("/proc/sys/net/core/rmem_max", O_RDONLY | O_CLOEXEC));
  char text[32] = {};
  return file && ::read(file.get(), text, sizeof text - 1) > 0 ? std::strtol(text, nullptr, 10) : 0;
}

/// What UCX reads from the environment alone, as it is initialized: set where the user has not.
ALLFOLD_COLD inline void set_ucx_environment() noexcept {
  // Over shared memory a dead peer is noticed by keepalive, which is 20 s apart by default.
  ::setenv("UCX_KEEPALIVE_INTERVAL", "200ms", 0);
  // A piece of a long message fits one segment (docs/decisions/0012-ucx-constants.md). UCX refuses to receive shorter
  // segments than it sends, so a user's choice of either stands alone.
  if (std::getenv("UCX_TCP_TX_SEG_SIZE") == nullptr && std::getenv("UCX_TCP_RX_SEG_SIZE") == nullptr) {
    ::setenv("UCX_TCP_TX_SEG_SIZE", "144k", 0);
    ::setenv("UCX_TCP_RX_SEG_SIZE", "144k", 0);
  }
  // A window that grows with use makes bbr take the receiver for a slow wire, and it paces what follows to that.
  if (longest_receive_buffer() >= 4 << 20) ::setenv("UCX_TCP_RCVBUF", "4m", 0);
  // Else an address from which no answer comes holds up the rank for minutes, as its endpoint is created.
  ::setenv("UCX_TCP_CONN_NB", "y", 0);
  // Connections are complete when ranks have greeted each other, and not with the first long message: UCX 1.13 ends the
  // process if a peer in shared memory dies meanwhile.
  ::setenv("UCX_RESOLVE_REMOTE_EP_ID", "y", 0);
  // Over TCP no memory of the user's is sent without a copy: if the peer dies while the rest of such a message waits
  // for room, UCX (1.13 to 1.22 at least) completes it twice, which ends the process or breaks another message
  // (docs/decisions/0011-ucx-endpoints.md).
  ::setenv("UCX_TCP_MAX_IOV", "0", 0);
  // Endpoints that report errors leave out shared memory unless it is told to take part (openucx/ucx 6595, 8477). Where
  // it takes no part UCX would warn of variables without a use.
  if (!may_share_memory()) return;
  ::setenv("UCX_POSIX_ERROR_HANDLING", "y", 0);
  ::setenv("UCX_SYSV_ERROR_HANDLING", "y", 0);
}

/// Whether the process may use a device that moves memory on its own.
ALLFOLD_COLD inline bool has_rdma_device() noexcept {
  DIR* const devices = ::opendir("/dev/infiniband");
  if (devices == nullptr) return false;
  bool has = false;
  while (const dirent* const entry = ::readdir(devices)) has = has || std::strncmp(entry->d_name, "uverbs", 6) == 0;
  ::closedir(devices);
  return has;
}

struct UcxContextEnd {
  void operator()(ucp_context_h context) const noexcept { ::ucp_cleanup(context); }
};
using UcxContext = std::unique_ptr<ucp_context, UcxContextEnd>;

/// A bit for each ucs_memory_type_t that UCX sends from and receives into.
ALLFOLD_COLD inline std::uint64_t memory_types_of(ucp_context_h context) noexcept {
  ucp_context_attr_t attributes{};
  attributes.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  return ::ucp_context_query(context, &attributes) == UCS_OK ? attributes.memory_types : 0;
}

inline constexpr std::uint64_t cuda_memory = std::uint64_t{1} << UCS_MEMORY_TYPE_CUDA;

/// UCX for `ranks`. `sleeps`: whether its worker is to be slept at. `for_gpus`: whether there may be memory of GPUs,
/// which UCX takes as it is if it knows CUDA.
/// @throws UcxError
ALLFOLD_COLD inline UcxContext open_ucx(const Where& where, std::size_t ranks, bool sleeps, bool for_gpus) {
  set_ucx_environment();
  const auto open = [&](bool with_rendezvous) {
    ucp_config_t* config = nullptr;
    check_ucx(where, ::ucp_config_read(nullptr, nullptr, &config),
              {"UCX could not read its configuration; see the variables UCX_*"});
    ucs_status_t status = UCS_OK;
    if (!with_rendezvous && std::getenv("UCX_RNDV_THRESH") == nullptr) {
      status = ::ucp_config_modify(config, "RNDV_THRESH", "inf");
    }
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_ESTIMATED_NUM_EPS;
    params.features = UCP_FEATURE_TAG | (sleeps ? UCP_FEATURE_WAKEUP : 0);
    params.estimated_num_eps = ranks;
    ucp_context_h context = nullptr;
    if (status == UCS_OK) status = ::ucp_init(&params, config, &context);
    ::ucp_config_release(config);
    check_ucx(where, status, {"UCX could not be initialized; see the variables UCX_TLS and UCX_NET_DEVICES"});
    return UcxContext(context);
  };
  // Rendezvous: a sender first asks whether its message is wanted, which spares no copy where every way copies; and UCX
  // 1.16, built with assertions, ends the process if the answer of a peer that has died is read after its end was
  // noticed (docs/decisions/0011-ucx-endpoints.md).
  if (has_rdma_device()) return open(true);
  UcxContext context = open(for_gpus);
  if (for_gpus && (memory_types_of(context.get()) & cuda_memory) == 0) context = open(false);
  return context;
}

}  // namespace detail
}  // namespace allfold
