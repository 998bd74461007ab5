// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <new>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <allfold/base/concat.hpp>
#include <allfold/base/deadline.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>

#include <support/network_namespace.hpp>
#include <support/random.hpp>

namespace allfold_test {

/// What a frame meets on its way from a host to another.
struct Wire {
  std::chrono::microseconds delay{0};
  std::chrono::microseconds jitter{0};  ///< at most so much sooner or later, so that frames overtake one another
  int lost_per_mille = 0;
  std::uint64_t seed = 0;  ///< of what is lost and late

  bool ideal() const noexcept { return delay.count() == 0 && jitter.count() == 0 && lost_per_mille == 0; }

  /// The same as a queueing discipline of Linux; its randomness is the kernel's.
  std::string netem() const {
    return allfold::concat({"netem limit 10000 delay ", delay.count(), "us ", jitter.count(), "us loss ",
                            lost_per_mille / 10, ".", lost_per_mille % 10, "%"});
  }
};

/// A switch whose wires are slow and lossy, for kernels without netem: a process that takes Ethernet frames from
/// interfaces, holds each for a while, and passes on what is not lost: to all where it has not yet heard the receiver.
class SlowSwitch {
 public:
  /// Between `ports`, interfaces of `where`. Who sends there must fill in checksums and cut segments to frames itself.
  SlowSwitch(const NetworkNamespace& where, const std::vector<std::string>& ports, const Wire& wire)
      : wire_(wire), random_(wire.seed), shared_(share()) {
    where.visit([&] {
      for (const std::string& port : ports) sockets_.push_back(listen(port));
    });
    const pid_t parent = ::getpid();
    process_ = ::fork();
    if (process_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::prctl(PR_SET_TIMERSLACK, 1);
      if (::getppid() == parent) run();
      ::_exit(1);
    }
    if (process_ < 0) throw allfold::SystemError("test", errno, {"no process for a switch"});
    sockets_.clear();
  }
  SlowSwitch(const SlowSwitch&) = delete;
  SlowSwitch& operator=(const SlowSwitch&) = delete;
  ~SlowSwitch() {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
    ::munmap(shared_, sizeof *shared_);
  }

  /// Frames that were lost by chance.
  std::uint64_t lost() const noexcept { return shared_->lost; }
  /// From now on everything from and to that port is lost.
  void cut(int port) const noexcept { shared_->cut |= std::uint64_t{1} << port; }

 private:
  using Address = std::array<unsigned char, ETH_ALEN>;

  struct Shared {
    std::atomic<std::uint64_t> lost{0};
    std::atomic<std::uint64_t> cut{0};  ///< a bit for each port
  };

  struct Held {
    allfold::Clock::time_point due;
    std::uint64_t number;  ///< those that are due together keep their order
    int from;
    std::vector<unsigned char> frame;

    bool operator>(const Held& other) const noexcept {
      return due != other.due ? due > other.due : number > other.number;
    }
  };

  static Shared* share() {
    void* const memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw allfold::SystemError("test", errno, {"no memory for a switch"});
    return new (memory) Shared;
  }

  static allfold::UniqueFd listen(const std::string& port) {
    allfold::UniqueFd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(port.c_str()));
    const int yes = 1;
    if (!fd || ::setsockopt(fd.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes, sizeof yes) != 0 ||
        ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      throw allfold::SystemError("test", errno, {"a switch could not take frames from ", port});
    }
    // What comes while the switch does not run waits here; root of a user namespace gets what everybody may have.
    const int bytes = 8 << 20;
    if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0) {
      ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    }
    return fd;
  }

  [[noreturn]] void run() {
    std::vector<pollfd> waits;
    for (const allfold::UniqueFd& socket : sockets_)
      waits.push_back({.fd = socket.get(), .events = POLLIN, .revents = 0});
    for (;;) {
      timespec time{};
      if (!held_.empty()) {
        const auto left = std::max(held_.top().due - allfold::Clock::now(), allfold::Clock::duration::zero());
        time.tv_sec = std::chrono::duration_cast<std::chrono::seconds>(left).count();
        time.tv_nsec = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count() % 1000000000;
      }
      ::ppoll(waits.data(), waits.size(), held_.empty() ? nullptr : &time, nullptr);
      for (std::size_t port = 0; port < waits.size(); ++port) {
        if (waits[port].revents != 0) take(static_cast<int>(port));
      }
      while (!held_.empty() && held_.top().due <= allfold::Clock::now()) {
        pass_on(held_.top());
        held_.pop();
      }
    }
  }

  void take(int port) {
    constexpr int at_once = 64;  // and then the others
    for (int i = 0; i < at_once; ++i) {
      unsigned char frame[2048];
      const ssize_t size = ::recv(sockets_[index(port)].get(), frame, sizeof frame, MSG_TRUNC);
      if (size < 2 * ETH_ALEN) return;
      if (static_cast<std::size_t>(size) > sizeof frame) {
        std::fputs("a switch got a frame that its sender did not cut to the wire's size\n", stderr);
        ::_exit(1);
      }
      place_of_[address_at(frame + ETH_ALEN)] = port;
      if (random_.below(1000) < static_cast<std::uint64_t>(wire_.lost_per_mille)) {
        ++shared_->lost;
        continue;
      }
      std::chrono::microseconds hold = wire_.delay;
      if (wire_.jitter.count() > 0) {
        const auto width = static_cast<std::uint64_t>(2 * wire_.jitter.count());
        hold += std::chrono::microseconds(random_.between(0, width)) - wire_.jitter;
      }
      held_.push({allfold::Clock::now() + hold, ++taken_, port, {frame, frame + size}});
    }
  }

  void pass_on(const Held& held) {
    const std::uint64_t cut = shared_->cut;
    const auto is_cut = [&](int port) { return (cut >> port & 1) != 0; };
    if (is_cut(held.from)) return;
    const auto place = place_of_.find(address_at(held.frame.data()));
    for (int port = 0; port < static_cast<int>(sockets_.size()); ++port) {
      const bool meant = place == place_of_.end() ? port != held.from : port == place->second;
      if (meant && !is_cut(port)) ::send(sockets_[index(port)].get(), held.frame.data(), held.frame.size(), 0);
    }
  }

  static std::size_t index(int port) { return static_cast<std::size_t>(port); }
  static Address address_at(const unsigned char* bytes) {
    Address address;
    std::memcpy(address.data(), bytes, address.size());
    return address;
  }

  Wire wire_;
  Random random_;
  Shared* shared_;
  std::vector<allfold::UniqueFd> sockets_;
  std::map<Address, int> place_of_;
  std::priority_queue<Held, std::vector<Held>, std::greater<>> held_;
  std::uint64_t taken_ = 0;
  pid_t process_ = -1;
};

}  // namespace allfold_test
