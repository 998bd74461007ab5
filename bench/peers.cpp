// SPDX-License-Identifier: Apache-2.0

#include "peers.hpp"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

namespace bench {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(fmt::format("allfold_perf: {}: {}", what, std::strerror(errno)));
}

std::string make_directory() {
  std::string path = (std::filesystem::temp_directory_path() / "allfold_perf.XXXXXX").string();
  if (::mkdtemp(path.data()) == nullptr) fail("cannot make a temporary directory");
  return path;
}

/// Opened for both directions: opening never waits, and a peer that ends does not raise SIGPIPE here.
allfold::UniqueFd make_pipe(const std::string& path) {
  if (::mkfifo(path.c_str(), 0600) != 0) fail("cannot make a named pipe");
  allfold::UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) fail("cannot open a named pipe");
  return fd;
}

std::string default_program() {
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "peer_mpi").string();
}

std::vector<std::string> command_for(std::string_view name, const Plan& plan, const std::string& directory) {
  std::vector<std::string> words = {"mpirun", "-n", std::to_string(plan.ranks)};
  if (plan.ranks <= static_cast<int>(plan.cores.size())) {
    words.insert(words.end(), {"--bind-to", "core"});
  } else {
    words.insert(words.end(), {"--bind-to", "none", "--oversubscribe"});
  }
  if (::geteuid() == 0) words.emplace_back("--allow-run-as-root");
  for (const PeerKind& kind : peer_kinds) {
    if (name != kind.name) continue;
    for (const char* const argument : kind.arguments) {
      if (argument != nullptr) words.emplace_back(argument);
    }
  }
  words.insert(words.end(),
               {plan.peer_program.empty() ? default_program() : plan.peer_program, directory, join(plan.cores)});
  return words;
}

/// Runs `words` with its output in `log`, in a process group of its own that ends with this process.
pid_t spawn(std::vector<std::string> words, const std::string& log) {
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) fail("cannot fork");
  if (child != 0) return child;
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(127);
  const int in = ::open("/dev/null", O_RDONLY);
  const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  ::dup2(in, 0);
  ::dup2(out, 1);
  ::dup2(out, 2);
  ::execvp(argv[0], argv.data());
  constexpr std::string_view message = "allfold_perf: cannot run mpirun; install Open MPI, or leave out --peer\n";
  (void)!::write(2, message.data(), message.size());
  ::_exit(127);
}

}  // namespace

Peer::Peer(std::string_view name, const Plan& plan)
    : name_(name), directory_(make_directory()), owner_(::getpid()), timeout_s_(plan.timeout_s) {
  for (int rank = 0; rank < plan.ranks; ++rank) commands_.push_back(make_pipe(command_pipe(directory_, rank)));
  replies_ = make_pipe(reply_pipe(directory_));
  process_ = spawn(command_for(name, plan, directory_), directory_ + "/log");
  try {
    alive_.reset(static_cast<int>(::syscall(SYS_pidfd_open, process_, 0)));
    if (!alive_) fail("cannot watch mpirun");
    receive(60);
  } catch (...) {
    stop();
    throw;
  }
}

Peer::~Peer() { stop(); }

void Peer::stop() noexcept {
  if (owner_ != ::getpid()) return;  // a forked rank only borrows it
  for (const allfold::UniqueFd& command : commands_) write_record(command.get(), PeerCommand{});
  for (int waited_ms = 0; ::waitpid(process_, nullptr, WNOHANG) == 0; waited_ms += 10) {
    if (waited_ms == 5000) ::kill(-process_, SIGKILL);
    ::poll(nullptr, 0, 10);
  }
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

bool Peer::can_run(ElementType type, Operator op) {
  return op != Operator::avg && type != ElementType::float16 && type != ElementType::bfloat16;
}

PeerReply Peer::run(const PeerCommand& command) {
  for (const allfold::UniqueFd& pipe : commands_) {
    if (!write_record(pipe.get(), command)) fail("cannot write to peer " + name_);
  }
  PeerReply reply = receive(timeout_s_);
  if (reply.correct == 0) throw std::runtime_error("allfold_perf: peer " + name_ + " gave a wrong result\n" + log());
  return reply;
}

PeerReply Peer::receive(double timeout_s) {
  pollfd ready[] = {{replies_.get(), POLLIN, 0}, {alive_.get(), POLLIN, 0}};
  const int answered = ::poll(ready, 2, static_cast<int>(timeout_s * 1000));
  PeerReply reply;
  if ((ready[0].revents & POLLIN) != 0 && read_record(replies_.get(), reply)) return reply;
  throw std::runtime_error(
      fmt::format("allfold_perf: peer {} {}\n{}", name_, answered > 0 ? "ended" : "did not answer in time", log()));
}

std::string Peer::log() const {
  std::ifstream file(directory_ + "/log");
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace bench
