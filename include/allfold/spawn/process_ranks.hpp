// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/spawn/outcome.hpp>

namespace allfold::detail {

/// One child process, as its parent sees it.
struct RankProcess {
  pid_t process = -1;
  UniqueFd report;       ///< read end: the child's last word
  bool hung_up = false;  ///< the write end is closed: the child is about to end
  bool ended = false;    ///< it was reaped, or is no longer ours to reap
  int status = 0;        ///< of waitpid
};

/// A report is one letter, then text: 'F' the function returned, 'E' it threw. It is written at once and never
/// exceeds what a pipe takes without a reader, so a child does not wait for its parent.
inline constexpr std::size_t max_report_bytes = 4096;

ALLFOLD_COLD inline void write_report(int fd, char letter, std::string_view text) noexcept {
  char bytes[max_report_bytes];
  bytes[0] = letter;
  const std::size_t size = text.copy(bytes + 1, sizeof bytes - 1);
  ssize_t written = 0;
  do {
    written = ::write(fd, bytes, size + 1);
  } while (written < 0 && errno == EINTR);
}

ALLFOLD_COLD inline std::string read_report(int fd) {
  // Without waiting: a grandchild may hold the write end open after the child's end.
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  char bytes[max_report_bytes];
  ssize_t got = 0;
  do {
    got = ::read(fd, bytes, sizeof bytes);
  } while (got < 0 && errno == EINTR);
  return got > 0 ? std::string(bytes, static_cast<std::size_t>(got)) : std::string();
}

/// The child's whole life.
[[noreturn]] ALLFOLD_COLD inline void run_rank_process(const Environment& environment, RankBody body, int report_fd,
                                                       pid_t parent) noexcept {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The parent may have died before the line above.
  if (::getppid() != parent) ::_exit(1);
  int status = 0;
  try {
    body(environment);
    write_report(report_fd, 'F', {});
  } catch (const std::exception& error) {
    write_report(report_fd, 'E', error.what());
    status = 1;
  } catch (...) {
    write_report(report_fd, 'E', unknown_exception_text);
    status = 1;
  }
  std::fflush(nullptr);
  // Not exit(): the parent's handlers and static objects are not the child's to run.
  ::_exit(status);
}

ALLFOLD_COLD inline void kill_running(std::vector<RankProcess>& children) noexcept {
  for (const RankProcess& child : children) {
    if (child.process > 0 && !child.ended) ::kill(child.process, SIGKILL);
  }
}

/// Reaps what has ended; returns how many still run.
ALLFOLD_COLD inline int reap_ended(std::vector<RankProcess>& children) noexcept {
  int running = 0;
  for (RankProcess& child : children) {
    if (child.process <= 0 || child.ended) continue;
    const pid_t got = ::waitpid(child.process, &child.status, WNOHANG);
    // ECHILD: the program ignores SIGCHLD, or reaped the child itself. Then the report alone tells how it ended.
    if (got == child.process || (got < 0 && errno == ECHILD)) {
      child.ended = true;
    } else {
      ++running;
    }
  }
  return running;
}

/// Sleeps until a child's report pipe closes, but not for long: the pipe of a child that left grandchildren behind
/// does not close.
ALLFOLD_COLD inline void wait_for_hang_up(std::vector<RankProcess>& children, Deadline deadline) {
  std::vector<pollfd> polled;
  std::vector<std::size_t> indices;
  bool ending = false;
  for (std::size_t i = 0; i < children.size(); ++i) {
    if (children[i].process <= 0 || children[i].ended) continue;
    if (children[i].hung_up) {
      ending = true;
    } else {
      polled.push_back({children[i].report.get(), 0, 0});
      indices.push_back(i);
    }
  }
  const Deadline nap = deadline.sooner(Deadline::after(std::chrono::milliseconds(ending ? 1 : 50)));
  ::poll(polled.data(), polled.size(), nap.remaining_ms());
  for (std::size_t i = 0; i < polled.size(); ++i) {
    if ((polled[i].revents & (POLLHUP | POLLERR)) != 0) children[indices[i]].hung_up = true;
  }
}

/// The outcome of an ended child. The flags `late` and `stopped` are set already.
ALLFOLD_COLD inline void judge(const RankProcess& child, Duration timeout, Outcome& outcome) {
  const std::string report = read_report(child.report.get());
  outcome.finished = !report.empty() && report[0] == 'F';
  if (!report.empty() && report[0] == 'E') {
    outcome.error = report.size() > 1 ? report.substr(1) : "it threw an exception without a message";
  }
  const int code = WIFEXITED(child.status) ? WEXITSTATUS(child.status) : 0;
  if (WIFSIGNALED(child.status)) outcome.signal = WTERMSIG(child.status);
  if (outcome.late) {
    outcome.error = late_text(timeout, child.ended ? " and was killed" : " and could not be killed");
  } else if (outcome.stopped) {
    outcome.error = "it was killed because another rank had failed";
  } else if (outcome.error.empty() && outcome.signal != 0) {
    outcome.error = concat({"it was killed by signal ", outcome.signal, " (", ::strsignal(outcome.signal), ")"});
  } else if (outcome.error.empty() && (!outcome.finished || code != 0)) {
    outcome.error = concat({"its process exited with status ", code,
                            outcome.finished ? " after its function returned" : " before its function returned"});
  }
}

/// Watches the children until all have ended, and kills those that outlive the deadline.
ALLFOLD_COLD inline void watch(std::vector<RankProcess>& children, std::vector<Outcome>& outcomes,
                               const LaunchOptions& options) {
  const Deadline deadline = Deadline::after(options.timeout);
  bool stopping = false;
  while (reap_ended(children) > 0 && !deadline.expired()) {
    if (options.stop_others_on_failure && !stopping) {
      for (const RankProcess& child : children) {
        stopping = stopping || (child.ended && !(WIFEXITED(child.status) && WEXITSTATUS(child.status) == 0));
      }
      if (stopping) {
        for (std::size_t i = 0; i < children.size(); ++i) outcomes[i].stopped = !children[i].ended;
        kill_running(children);
      }
    }
    wait_for_hang_up(children, deadline);
  }
  for (std::size_t i = 0; i < children.size(); ++i) outcomes[i].late = !children[i].ended && !outcomes[i].stopped;
  kill_running(children);
  // SIGKILL acts at once, but for a process that is stuck in the kernel.
  const Deadline grace = Deadline::after(std::chrono::seconds(10));
  while (reap_ended(children) > 0 && !grace.expired()) wait_for_hang_up(children, grace);
}

/// Runs `body` in one forked child per environment. `listening` is the socket for rank 0.
ALLFOLD_COLD inline std::vector<Outcome> run_processes(std::vector<Environment>& environments, RankBody body,
                                                       UniqueFd listening, const LaunchOptions& options) {
  std::vector<RankProcess> children(environments.size());
  std::vector<Outcome> outcomes(environments.size());
  // Else each child would write out again what the parent has buffered.
  std::fflush(nullptr);
  const pid_t parent = ::getpid();
  int failure = 0;
  for (std::size_t i = 0; i < children.size() && failure == 0; ++i) {
    outcomes[i].rank = environments[i].rank;
    int ends[2] = {-1, -1};
    if (::pipe2(ends, O_CLOEXEC) != 0) {
      failure = errno;
      break;
    }
    children[i].report.reset(ends[0]);
    UniqueFd write_end(ends[1]);
    const pid_t process = ::fork();
    if (process == 0) {
      for (std::size_t j = 0; j <= i; ++j) children[j].report.reset();
      if (i != 0) {
        // With rank 0 dead, a connection must be refused, not wait in the backlog of a socket nobody serves.
        listening.reset();
        environments[i].listening_socket = -1;
      }
      run_rank_process(environments[i], body, write_end.get(), parent);
    }
    if (process < 0) failure = errno;
    children[i].process = process;
  }
  listening.reset();
  if (failure != 0) {
    const LaunchOptions at_once{.timeout = Duration::zero()};
    watch(children, outcomes, at_once);
    throw SystemError("launch", failure,
                      {"could not start ", environments.size(), " rank processes; check the process and file limits"});
  }
  watch(children, outcomes, options);
  for (std::size_t i = 0; i < children.size(); ++i) judge(children[i], options.timeout, outcomes[i]);
  return outcomes;
}

}  // namespace allfold::detail
