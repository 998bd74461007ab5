// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <allfold/memory/descriptor_exchange.hpp>

namespace {

using namespace std::chrono_literals;
using allfold::Clock;
using allfold::Deadline;
using allfold::DescriptorExchange;
using allfold::exchange_tag;
using allfold::ExchangeAddress;
using allfold::PeerError;
using allfold::SystemError;
using allfold::TimeoutError;
using allfold::UniqueFd;

static_assert(std::is_trivially_copyable_v<ExchangeAddress>);

Deadline soon() { return Deadline::after(20s); }

/// A file that tells itself apart by its size.
UniqueFd file_of(int bytes) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC));
  REQUIRE(::ftruncate(fd.get(), bytes) == 0);
  return fd;
}

int size_of(const UniqueFd& fd) {
  struct stat status = {};
  return ::fstat(fd.get(), &status) == 0 ? static_cast<int>(status.st_size) : -1;
}

int open_files() {
  int count = 0;
  DIR* const directory = ::opendir("/proc/self/fd");
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

/// Sends to the exchange as a program that is not allfold might: any bytes, any descriptors.
void send_as_stranger(const ExchangeAddress& to, std::string_view bytes, std::span<const int> fds) {
  const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  const std::string path = '\0' + ("allfold-" + std::string(to.name()));
  std::memcpy(name.sun_path, path.data(), path.size());
  iovec part = {const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {};
  msghdr message = {};
  message.msg_name = &name;
  message.msg_namelen = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
  }
  REQUIRE(::sendmsg(socket.get(), &message, 0) == static_cast<ssize_t>(bytes.size()));
}

/// The bytes of a datagram that shows the secret.
std::string frame(const ExchangeAddress& to, std::uint64_t tag) {
  std::string bytes(to.secret());
  bytes.append(reinterpret_cast<const char*>(&tag), sizeof tag);
  return bytes;
}

TEST_CASE("addresses are fresh, printable, and end with zeros") {
  const DescriptorExchange a("test");
  const DescriptorExchange b("test");
  CHECK(a.address().name() != b.address().name());
  CHECK(a.address().secret() != b.address().secret());
  const std::string digits = a.address().text;
  CHECK(digits.size() == 48);
  CHECK(digits.find_first_not_of("0123456789abcdef") == std::string::npos);
}

TEST_CASE("tags of windows and ranks are distinct") {
  CHECK(exchange_tag(1, 0) != exchange_tag(0, 1));
  CHECK(exchange_tag(0xffffffff, 7) != exchange_tag(0xffffffff, 6));
}

TEST_CASE("a descriptor passes within a process, as a duplicate that exec closes") {
  DescriptorExchange a("test");
  DescriptorExchange b("test");
  UniqueFd sent = file_of(11);
  a.send("test", b.address(), 5, 1, sent.get(), soon());
  sent.reset();
  const UniqueFd got = b.receive("test", 5, 0, soon());
  CHECK(size_of(got) == 11);
  CHECK((::fcntl(got.get(), F_GETFD) & FD_CLOEXEC) != 0);
  CHECK_FALSE(b.try_receive("test", 5));
}

TEST_CASE("descriptors pass between processes, both ways") {
  DescriptorExchange parent("test");
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    int got = -1;
    try {
      DescriptorExchange own("test");
      if (::write(ends[1], &own.address(), sizeof(ExchangeAddress)) < 0) ::_exit(1);
      const UniqueFd file(::memfd_create("test", 0));
      if (::ftruncate(file.get(), 21) != 0) ::_exit(1);
      own.send("test", parent.address(), exchange_tag(1, 1), 0, file.get(), soon());
      got = size_of(own.receive("test", exchange_tag(1, 0), 0, soon()));
    } catch (const allfold::Error&) {
    }
    ::_exit(got);
  }
  ExchangeAddress address;
  REQUIRE(::read(ends[0], &address, sizeof address) == static_cast<ssize_t>(sizeof address));
  ::close(ends[0]);
  ::close(ends[1]);
  parent.send("test", address, exchange_tag(1, 0), 1, file_of(22).get(), soon());
  CHECK(size_of(parent.receive("test", exchange_tag(1, 1), 1, soon())) == 21);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 22));
}

TEST_CASE("what arrives for another tag is kept, and one tag keeps its order") {
  DescriptorExchange a("test");
  DescriptorExchange b("test");
  for (const int size : {1, 2, 3}) a.send("test", b.address(), 100, 1, file_of(size).get(), soon());
  a.send("test", b.address(), 200, 1, file_of(4).get(), soon());
  CHECK(size_of(b.receive("test", 200, 0, soon())) == 4);
  CHECK(size_of(b.receive("test", 100, 0, soon())) == 1);
  CHECK(size_of(b.receive("test", 100, 0, soon())) == 2);
  CHECK(size_of(b.receive("test", 100, 0, soon())) == 3);
}

TEST_CASE("a descriptor that does not come is a timeout that names the rank") {
  DescriptorExchange own("test");
  const Clock::time_point begin = Clock::now();
  try {
    own.receive({"test", 0, 4}, 1, 3, Deadline::after(30ms));
    FAIL("received what nobody sent");
  } catch (const TimeoutError& error) {
    CHECK(error.source_rank() == 3);
  }
  CHECK(Clock::now() - begin >= 30ms);
}

TEST_CASE("a receiver waits for a sender that is late") {
  DescriptorExchange own("test");
  const ExchangeAddress address = own.address();
  std::thread late([&address] {
    DescriptorExchange sender("test");
    std::this_thread::sleep_for(20ms);
    sender.send("test", address, 1, 0, file_of(9).get(), soon());
  });
  CHECK(size_of(own.receive("test", 1, 0, soon())) == 9);
  late.join();
}

TEST_CASE("a peer that is gone is a peer error at once") {
  DescriptorExchange own("test");
  std::optional<DescriptorExchange> peer("test");
  const ExchangeAddress address = peer->address();
  peer.reset();
  try {
    own.send({"test", 0, 4}, address, 1, 2, 0, soon());
    FAIL("sent to nobody");
  } catch (const PeerError& error) {
    CHECK(error.source_rank() == 2);
  }
}

TEST_CASE("a descriptor that is not open cannot be sent") {
  DescriptorExchange own("test");
  CHECK_THROWS_AS(own.send("test", own.address(), 1, 0, -1, soon()), SystemError);
}

TEST_CASE("a peer that takes nothing is a timeout, and what it was sent is not lost") {
  DescriptorExchange sender("test");
  DescriptorExchange peer("test");
  const UniqueFd file = file_of(1);
  std::uint64_t sent = 0;
  const auto fill = [&] {
    for (; sent < 100000; ++sent)
      sender.send({"test", 0, 4}, peer.address(), sent, 2, file.get(), Deadline::after(30ms));
  };
  try {
    fill();
    FAIL("a socket took 100000 datagrams");
  } catch (const TimeoutError& error) {
    CHECK(error.source_rank() == 2);
  }
  REQUIRE(sent > 0);
  for (std::uint64_t tag = 0; tag < sent; ++tag) REQUIRE(peer.receive("test", tag, 0, soon()));
}

TEST_CASE("ranks that all send first, and more than their queues hold, do not wait for one another forever") {
  constexpr int ranks = 4;
  constexpr std::uint32_t windows = 40;
  std::vector<DescriptorExchange> exchanges;
  exchanges.reserve(ranks);
  for (int rank = 0; rank < ranks; ++rank) exchanges.emplace_back("test");
  std::vector<ExchangeAddress> addresses;
  addresses.reserve(ranks);
  for (const DescriptorExchange& exchange : exchanges) addresses.push_back(exchange.address());
  std::vector<int> correct(ranks);
  std::vector<std::thread> threads;
  threads.reserve(ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      DescriptorExchange& own = exchanges[static_cast<std::size_t>(rank)];
      int& count = correct[static_cast<std::size_t>(rank)];
      try {
        for (std::uint32_t w = 0; w < windows; ++w) {
          const UniqueFd file(::memfd_create("test", 0));
          if (::ftruncate(file.get(), rank + 1) != 0) return;
          for (int to = 0; to < ranks; ++to) {
            if (to == rank) continue;
            own.send("test", addresses[static_cast<std::size_t>(to)], exchange_tag(w, rank), to, file.get(), soon());
          }
        }
        for (std::uint32_t w = windows; w-- > 0;) {
          for (int from = 0; from < ranks; ++from) {
            if (from != rank) count += size_of(own.receive("test", exchange_tag(w, from), from, soon())) == from + 1;
          }
        }
      } catch (const allfold::Error&) {
        count = -1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : correct) CHECK(count == static_cast<int>(windows) * (ranks - 1));
}

TEST_CASE("strangers are ignored, and what they carry is closed") {
  DescriptorExchange own("test");
  const ExchangeAddress& address = own.address();
  const UniqueFd file = file_of(1);
  const int one[] = {file.get()};
  const int many[] = {file.get(), file.get(), file.get(), file.get()};
  const std::string good = frame(address, 1);
  std::string wrong_secret = good;
  wrong_secret[0] = wrong_secret[0] == '0' ? '1' : '0';
  const int before = open_files();

  SUBCASE("without the secret") { send_as_stranger(address, wrong_secret, one); }
  SUBCASE("too short") { send_as_stranger(address, std::string_view(good).substr(0, good.size() - 1), one); }
  SUBCASE("too long") { send_as_stranger(address, good + "x", one); }
  SUBCASE("empty") { send_as_stranger(address, "", one); }
  SUBCASE("with two descriptors") { send_as_stranger(address, good, std::span(many, 2)); }
  SUBCASE("with four descriptors") { send_as_stranger(address, good, many); }
  SUBCASE("with four descriptors, without the secret") { send_as_stranger(address, wrong_secret, many); }
  SUBCASE("without a descriptor") { send_as_stranger(address, good, {}); }

  CHECK_FALSE(own.try_receive("test", 1));
  CHECK(open_files() == before);
  DescriptorExchange friendly("test");
  friendly.send("test", address, 1, 0, file_of(33).get(), soon());
  CHECK(size_of(own.receive("test", 1, 0, soon())) == 33);
}

TEST_CASE("descriptors that nobody asks for are kept up to a bound, and then a peer error") {
  DescriptorExchange own("test");
  DescriptorExchange peer("test");
  const UniqueFd file = file_of(1);
  for (std::size_t i = 0; i < DescriptorExchange::max_kept; ++i) {
    peer.send("test", own.address(), 1, 0, file.get(), soon());
    if (i + 1 < DescriptorExchange::max_kept) CHECK_FALSE(own.try_receive("test", 2));
  }
  CHECK_THROWS_AS(own.receive("test", 2, 0, soon()), PeerError);
  CHECK(own.receive("test", 1, 0, soon()));
}

TEST_CASE("a process that may open no more files is told so") {
  DescriptorExchange own("test");
  DescriptorExchange peer("test");
  const UniqueFd file = file_of(1);
  peer.send("test", own.address(), 1, 0, file.get(), soon());
  rlimit before = {};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const rlimit none = {0, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  int number = 0;
  try {
    own.try_receive("test", 1);
  } catch (const SystemError& error) {
    number = error.number();
  }
  ::setrlimit(RLIMIT_NOFILE, &before);
  CHECK(number == EMFILE);
}

}  // namespace
