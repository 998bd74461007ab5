// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <allfold/base/deadline.hpp>
#include <allfold/base/environment.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>

#include <support/network_namespace.hpp>
#include <support/slow_wire.hpp>

namespace allfold_test {

/// Hosts as far as networks go: each a network namespace with an interface eth0, all on one switch, which is a bridge
/// in a namespace of its own. Their ranks share a kernel, and nothing that the library looks at.
class Hosts {
 public:
  /// Why this machine cannot have any; empty: it can. Somebody other than root becomes root of a user namespace.
  static const std::string& refusal() {
    static const std::string reason = find_refusal();
    return reason;
  }

  /// Why their interfaces cannot send by such a queueing discipline ("netem delay 1ms"); empty: they can.
  static std::string queue_refusal(const std::string& discipline) {
    if (!refusal().empty()) return refusal();
    const NetworkNamespace probe;
    if (!probe.run({"tc", "-V"}, {}, true)) return "there is no program tc (Debian and Ubuntu: iproute2)";
    if (probe.run({"sh", "-c", "tc qdisc add dev lo root " + discipline}, {}, true)) return {};
    return "this kernel has no queueing discipline " + discipline.substr(0, discipline.find(' '));
  }

  /// Where the wires are not ideal, tc makes them so, or a SlowSwitch where this kernel has no netem.
  explicit Hosts(int count, const Wire& wire = {}) : hosts_(static_cast<std::size_t>(count)) {
    const bool tc = wire.ideal() || queue_refusal("netem").empty();
    if (tc) ip(switch_, "link add switch type bridge\nlink set switch up\n");
    for (int host = 0; host < count; ++host) {
      // The child that runs `ip` has this descriptor until it execs, and `ip` opens what its parent has.
      const std::string switch_path = allfold::concat({"/proc/", ::getpid(), "/fd/", switch_.descriptor()});
      ip(of(host), allfold::concat({"link set lo up\nlink add eth0 type veth peer name ", port(host), " netns ",
                                    switch_path, "\naddress add ", address(host), "/24 dev eth0\nlink set eth0 up\n"}));
      ip(switch_, allfold::concat({"link set ", port(host), tc ? " master switch up\n" : " up\n"}));
      if (!tc) send_whole_frames(host);
    }
    for (int host = 0; host < count; ++host) {
      wait_until_up(of(host), "eth0");
      wait_until_up(switch_, port(host).c_str());
    }
    if (!tc) {
      std::vector<std::string> ports;
      for (int host = 0; host < count; ++host) ports.push_back(port(host));
      slow_.emplace(switch_, ports, wire);
    } else if (!wire.ideal()) {
      queue_by(wire.netem());
    }
  }

  /// Every host sends by that queueing discipline of tc's from now on.
  void queue_by(const std::string& discipline) const {
    for (const NetworkNamespace& host : hosts_) {
      if (!host.run({"sh", "-c", "tc qdisc add dev eth0 root " + discipline})) {
        throw allfold::Error(allfold::ErrorCode::system, "test", {"tc refused ", discipline});
      }
    }
  }

  /// Whether a frame was lost by what the wires or a queueing discipline are like.
  bool have_lost_frames() const {
    if (slow_) return slow_->lost() > 0;
    bool lost = false;
    for (const NetworkNamespace& host : hosts_) {
      lost |= host.run({"sh", "-c", "tc -s qdisc show dev eth0 | grep -q 'dropped [1-9]'"});
    }
    return lost;
  }

  int count() const noexcept { return static_cast<int>(hosts_.size()); }
  static std::string address(int host) { return allfold::concat({"10.77.0.", host + 1}); }
  const NetworkNamespace& of(int host) const { return hosts_[static_cast<std::size_t>(host)]; }
  const NetworkNamespace& at_switch() const { return switch_; }

  /// Moves this rank to its host, `per_host` ranks each, and tells where rank 0 serves the store: `life` counts the
  /// stores that it serves one after another.
  allfold::Environment move_in(const allfold::Environment& launched, int per_host = 1, int life = 0) const {
    allfold::Environment environment = launched;
    environment.local_rank = launched.rank % per_host;
    environment.local_world_size = per_host;
    environment.meeting_host = address(0);
    environment.meeting_port = static_cast<std::uint16_t>(29500 + life);
    environment.listening_socket = -1;
    environment.listener = std::make_shared<allfold::SharedListener>();
    of(launched.rank / per_host).enter_with_sysfs();
    return environment;
  }

  /// The interface goes down: the host itself knows it.
  void take_down(int host) const {
    change(of(host), "eth0", [](int socket, ifreq& request) {
      return ::ioctl(socket, SIOCGIFFLAGS, &request) == 0 &&
             (request.ifr_flags = static_cast<short>(request.ifr_flags & ~IFF_UP),
              ::ioctl(socket, SIOCSIFFLAGS, &request) == 0);
    });
  }

  /// Everything from and to the host is lost from now on, and nobody is told.
  void lose_all(int host) const {
    if (slow_) return slow_->cut(host);
    change(switch_, "switch", [&](int socket, ifreq& request) {
      request.ifr_ifindex = static_cast<int>(::if_nametoindex(port(host).c_str()));
      return ::ioctl(socket, SIOCBRDELIF, &request) == 0;
    });
  }

 private:
  static std::string port(int host) { return allfold::concat({"port", host}); }

  /// The kernel may take a second for it, in which what is sent is lost.
  static void wait_until_up(const NetworkNamespace& where, const char* interface) {
    change(where, interface, [](int socket, ifreq& request) {
      const auto end = allfold::Deadline::after(std::chrono::seconds(10));
      while (::ioctl(socket, SIOCGIFFLAGS, &request) == 0 && (request.ifr_flags & IFF_RUNNING) == 0) {
        if (end.expired()) return false;
        ::usleep(1000);
      }
      return (request.ifr_flags & IFF_RUNNING) != 0;
    });
  }

  /// Its interface leaves neither checksums nor segments that are longer than a frame to whoever takes them.
  void send_whole_frames(int host) const {
    for (const unsigned command : {ETHTOOL_STXCSUM, ETHTOOL_STSO}) {
      change(of(host), "eth0", [&](int socket, ifreq& request) {
        ethtool_value off{.cmd = command, .data = 0};
        request.ifr_data = reinterpret_cast<char*>(&off);
        return ::ioctl(socket, SIOCETHTOOL, &request) == 0;
      });
    }
  }

  template <class Change>
  static void change(const NetworkNamespace& where, const char* interface, Change&& change) {
    const int status = in_child([&] {
      where.enter();
      const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
      ifreq request{};
      std::strncpy(request.ifr_name, interface, sizeof request.ifr_name - 1);
      return change(socket, request) ? 0 : errno;
    });
    if (status != 0) throw allfold::SystemError("test", status, {"could not change the interface ", interface});
  }

  static void ip(const NetworkNamespace& where, const std::string& commands) {
    if (!where.run({"ip", "-batch", "-"}, commands)) {
      throw allfold::Error(allfold::ErrorCode::system, "test", {"ip refused one of:\n", commands});
    }
  }

  static std::string find_refusal() {
    try {
      const NetworkNamespace allowed;
    } catch (const allfold::SystemError&) {
      if (!become_root()) return allfold::concat({"network namespaces are not allowed here: ", std::strerror(errno)});
    }
    const NetworkNamespace probe;
    if (!probe.run({"ip", "-V"}, {}, true)) return "there is no program ip (Debian and Ubuntu: iproute2)";
    if (!probe.run({"ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"}, {}, true)) {
      return "this kernel has no veth interfaces";
    }
    if (!probe.run({"ip", "link", "add", "probe2", "type", "bridge"}, {}, true)) return "this kernel has no bridges";
    if (in_child([&] { return probe.sees_itself() ? 0 : 1; }) != 0)
      return "a /sys of a namespace cannot be mounted here";
    // Whoever became root did so in a network of its own, and the other cases of this program need its loopback.
    in_child([] { return ::execlp("ip", "ip", "link", "set", "lo", "up", nullptr); });
    return {};
  }

  /// Of a user namespace, which can return to no network but its own; false leaves errno.
  static bool become_root() {
    const std::string users = allfold::concat({"0 ", ::getuid(), " 1"});
    const std::string groups = allfold::concat({"0 ", ::getgid(), " 1"});
    return ::unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 && write_file("/proc/self/setgroups", "deny") &&
           write_file("/proc/self/uid_map", users) && write_file("/proc/self/gid_map", groups);
  }

  static bool write_file(const char* path, std::string_view text) {
    const allfold::UniqueFd fd(::open(path, O_WRONLY | O_CLOEXEC));
    return fd && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  }

  NetworkNamespace switch_;
  std::vector<NetworkNamespace> hosts_;
  std::optional<SlowSwitch> slow_;
};

}  // namespace allfold_test

/// Leaves the running TEST_CASE as skipped where there can be no hosts.
#define NEEDS_HOSTS()                                          \
  do {                                                         \
    const std::string& why = ::allfold_test::Hosts::refusal(); \
    if (!why.empty()) SKIP_CASE(why.c_str());                  \
  } while (false)
