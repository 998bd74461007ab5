// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <allfold/memory/peer_process.hpp>
#include <support/skip.hpp>

namespace {

using allfold::PeerProcess;
using allfold::process_start_time;

/// A child that only waits to be killed.
class Sleeper {
 public:
  Sleeper() : process_(::fork()) {
    if (process_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (true) ::pause();
  }
  ~Sleeper() { end(); }
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;

  int process() const { return process_; }

  /// Kills it and waits until it is a zombie: dead, its number still taken.
  void kill() const {
    ::kill(process_, SIGKILL);
    siginfo_t info = {};
    ::waitid(P_PID, static_cast<id_t>(process_), &info, WEXITED | WNOWAIT);
  }

  void end() {
    if (process_ <= 0) return;
    kill();
    ::waitpid(process_, nullptr, 0);
    process_ = 0;
  }

 private:
  pid_t process_;
};

/// Runs `body` in a child; its exit status, or -1 if a signal ended it.
template <class F>
int exit_status_of(F body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// Watches a child from birth to burial; 0, or the line of what is wrong.
int watch_a_life() {
  Sleeper child;
  const std::uint64_t start = process_start_time(child.process());
  if (start == 0) return __LINE__;
  const PeerProcess watched(child.process(), start);
  const PeerProcess by_number(child.process(), 0);
  const PeerProcess other_life(child.process(), start + 1);
  if (!watched.alive() || !by_number.alive()) return __LINE__;
  if (other_life.alive()) return __LINE__;
  const int process = child.process();
  child.kill();
  if (watched.alive()) return __LINE__;
  if (PeerProcess(process, start).alive()) return __LINE__;
  child.end();
  if (watched.alive() || by_number.alive()) return __LINE__;
  if (PeerProcess(process, start).alive()) return __LINE__;
  return 0;
}

TEST_CASE("this process is always alive, and nobody is not") {
  CHECK(PeerProcess(::getpid(), process_start_time(::getpid())).alive());
  CHECK_FALSE(PeerProcess().alive());
  CHECK_FALSE(PeerProcess(0, 0).alive());
  CHECK_FALSE(PeerProcess(-1, 0).alive());
}

TEST_CASE("a peer is alive until it is killed, also before it is reaped") { CHECK(watch_a_life() == 0); }

TEST_CASE("without pidfd the start time tells a peer's life") {
  constexpr int no_filters = 255;
  const int status = exit_status_of([] {
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program = {4, code};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return no_filters;
    if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) return no_filters;
    if (::syscall(SYS_pidfd_open, ::getpid(), 0) >= 0) return no_filters;
    return watch_a_life();
  });
  if (status == no_filters) SKIP_CASE("this system installs no seccomp filter");
  CHECK(status == 0);
}

TEST_CASE("a watch can be moved") {
  const Sleeper child;
  PeerProcess first(child.process(), process_start_time(child.process()));
  PeerProcess second = std::move(first);
  CHECK(second.process() == child.process());
  CHECK(second.alive());
  child.kill();
  CHECK_FALSE(second.alive());
}

TEST_CASE("a start time is that of one process") {
  const std::uint64_t own = process_start_time(::getpid());
  CHECK(own != 0);
  CHECK(process_start_time(::getpid()) == own);
  CHECK(process_start_time(0) == 0);
  // Programs may have any name: one that looks like the fields after it must not confuse.
  char name[16] = {};
  REQUIRE(::prctl(PR_GET_NAME, name) == 0);
  REQUIRE(::prctl(PR_SET_NAME, ") Z 1 (2) 3") == 0);
  const std::uint64_t renamed = process_start_time(::getpid());
  ::prctl(PR_SET_NAME, name);
  CHECK(renamed == own);
}

}  // namespace
