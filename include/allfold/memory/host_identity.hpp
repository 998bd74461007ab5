// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <allfold/base/concat.hpp>
#include <allfold/base/hash.hpp>
#include <allfold/memory/peer_process.hpp>
#include <allfold/memory/small_file.hpp>
#include <allfold/policy/identity.hpp>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace allfold {

namespace detail {

/// One word for the namespaces that sharing memory depends on. Equal words on one host: a descriptor can be passed
/// and a process named.
///   net   abstract Unix sockets, by which descriptors travel, belong to it
///   pid   process numbers, by which peers are watched, count in it
///   user  the sender's user id is compared, and is translated between two of them
///   time  start times, which tell processes of one number apart, are shifted by it
/// IPC and mount namespaces do not matter: segments have no System V key and no path.
inline std::uint64_t namespaces_word() {
  std::uint64_t word = 0;
  for (const char* kind : {"net", "pid", "user", "time"}) {
    struct stat entry = {};
    const bool known = ::stat(concat({"/proc/self/ns/", kind}).c_str(), &entry) == 0;
    word = hash_combine(word, known ? entry.st_ino : 0);
  }
  return word;
}

/// What names this host's kernel since its boot: the text that Identity::host is the hash of.
inline std::string host_text(const char* host_name) {
  const char* const given = std::getenv("ALLFOLD_HOST_ID");
  if (given != nullptr && *given != '\0') return concat({"given ", given});
  char text[128];
  const std::string_view boot = read_small_file("/proc/sys/kernel/random/boot_id", text);
  if (!boot.empty()) return concat({"boot ", boot});
  return concat({"machine ", read_small_file("/etc/machine-id", text), " ", host_name});
}

}  // namespace detail

/// Says which host and process this is; ranks with the same `host` and `namespaces` can share memory. The device
/// fields are left for a GPU transport to fill.
///
/// The environment variable ALLFOLD_HOST_ID, any text, stands for the host if it is set: give ranks different texts
/// to treat them as ranks of different hosts (virtual machines cloned from one snapshot have equal boot ids), or the
/// same text where a sandbox invents a boot id for each process. Namespaces are compared all the same.
inline Identity host_identity() {
  Identity identity;
  // The last byte stays zero: gethostname does not end a name that it cuts.
  if (::gethostname(identity.host_name, sizeof identity.host_name - 1) != 0) std::strcpy(identity.host_name, "?");
  identity.host = fnv1a(detail::host_text(identity.host_name));
  identity.namespaces = detail::namespaces_word();
  identity.process = ::getpid();
  identity.process_start = process_start_time(identity.process);
  return identity;
}

}  // namespace allfold
