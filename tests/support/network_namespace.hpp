// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <allfold/base/error.hpp>
#include <allfold/base/function_ref.hpp>
#include <allfold/base/unique_fd.hpp>

namespace allfold_test {

/// Runs `body` in a child process; its status, or -1. What the child does to itself ends with it.
inline int in_child(allfold::FunctionRef<int()> body) {
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::_exit(::getppid() == parent ? body() : 1);
  }
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}

/// A network namespace without a name: it ends with its last descriptor and process, however they end.
class NetworkNamespace {
 public:
  /// For a process of one thread. @throws SystemError
  NetworkNamespace() {
    const allfold::UniqueFd home = current();
    if (::unshare(CLONE_NEWNET) != 0) throw allfold::SystemError("test", errno, {"no network namespace"});
    handle_ = current();
    if (::setns(home.get(), CLONE_NEWNET) != 0) throw allfold::SystemError("test", errno, {"no way back home"});
  }

  int descriptor() const noexcept { return handle_.get(); }

  /// Moves this process there, and what it opens from now on.
  void enter() const {
    if (::setns(handle_.get(), CLONE_NEWNET) != 0)
      throw allfold::SystemError("test", errno, {"could not enter a host"});
  }

  /// Runs `body` there, in this process, which comes back; what it opens stays there. For a process of one thread.
  template <class Body>
  void visit(Body&& body) const {
    struct Return {
      allfold::UniqueFd home = current();
      // Where it fails, nothing that the process does later is where it should be.
      ~Return() { ::setns(home.get(), CLONE_NEWNET) == 0 ? void() : std::abort(); }
    } const back_home;
    enter();
    body();
  }

  /// The same, with a /sys that shows the interfaces of there, which UCX looks up.
  void enter_with_sysfs() const {
    enter();
    const bool mine = ::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    // Busy: this process was there before.
    if (!mine || (::mount("sysfs", "/sys", "sysfs", 0, nullptr) != 0 && errno != EBUSY)) {
      throw allfold::SystemError("test", errno, {"no /sys of a host's own"});
    }
  }

  /// Whether the above can be done; it is done to this process.
  bool sees_itself() const noexcept {
    try {
      enter_with_sysfs();
    } catch (const allfold::SystemError&) {
      return false;
    }
    return ::access("/sys/class/net/lo", F_OK) == 0;
  }

  /// Runs a program there with `input`; whether it ended well. It says why not on stderr, unless it is `quiet`.
  bool run(std::vector<std::string> command, const std::string& input = {}, bool quiet = false) const {
    return in_child([&] {
             int ends[2];
             if (::setns(handle_.get(), CLONE_NEWNET) != 0 || ::pipe(ends) != 0) return 1;
             // A pipe takes 64 KiB without a reader, and inputs are short.
             if (::write(ends[1], input.data(), input.size()) != static_cast<ssize_t>(input.size())) return 1;
             ::close(ends[1]);
             ::dup2(ends[0], STDIN_FILENO);
             if (quiet) {
               const int nowhere = ::open("/dev/null", O_WRONLY);
               ::dup2(nowhere, STDOUT_FILENO);
               ::dup2(nowhere, STDERR_FILENO);
             }
             std::vector<char*> arguments;
             for (std::string& word : command) arguments.push_back(word.data());
             arguments.push_back(nullptr);
             ::execvp(arguments[0], arguments.data());
             return 127;
           }) == 0;
  }

 private:
  static allfold::UniqueFd current() {
    allfold::UniqueFd fd(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
    if (!fd) throw allfold::SystemError("test", errno, {"/proc/self/ns/net could not be opened"});
    return fd;
  }

  allfold::UniqueFd handle_;
};

}  // namespace allfold_test
