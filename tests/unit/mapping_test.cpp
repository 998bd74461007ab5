// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <allfold/memory/mapping.hpp>
#include <support/skip.hpp>

namespace {

using allfold::create_shared_segment;
using allfold::map_private;
using allfold::map_shared;
using allfold::Mapping;
using allfold::SystemError;
using allfold::UniqueFd;
using allfold::UsageError;

const std::size_t page_bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));

struct stat status_of(const UniqueFd& fd) {
  struct stat status = {};
  REQUIRE(::fstat(fd.get(), &status) == 0);
  return status;
}

bool is_mapped(void* page) {
  unsigned char resident = 0;
  return ::mincore(page, 1, &resident) == 0;
}

bool all_zero(const Mapping& mapping) {
  const char* const bytes = static_cast<const char*>(mapping.data());
  return std::all_of(bytes, bytes + mapping.size(), [](char c) { return c == 0; });
}

/// As long as it lives no file of this process grows beyond `bytes`. It also stands around every request that must
/// fail: should the library's own check break, a test must not eat the machine's memory to find out.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(::signal(SIGXFSZ, SIG_IGN)) {
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before_) == 0);
    const rlimit limit = {bytes, before_.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  void (*handler_)(int);
  rlimit before_ = {};
};

struct Refusal {
  std::string message;
  int number = 0;
};

/// The SystemError that a request for a segment ends with.
Refusal refusal(std::size_t bytes) {
  try {
    create_shared_segment("test", bytes);
  } catch (const SystemError& error) {
    return {error.what(), error.number()};
  }
  return {};
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

TEST_CASE("a shared segment has no name and cannot get one") {
  const UniqueFd fd = create_shared_segment("test", 100);
  CHECK(status_of(fd).st_nlink == 0);
  CHECK((status_of(fd).st_mode & 0777 & ~0700) == 0);
  CHECK((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
  const std::string self = "/proc/self/fd/" + std::to_string(fd.get());
  const std::string name = "/dev/shm/allfold-mapping-test-" + std::to_string(::getpid());
  const bool linked = ::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0;
  if (linked) ::unlink(name.c_str());
  CHECK_FALSE(linked);
}

TEST_CASE("a shared segment is whole pages of zeros, reserved at once") {
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, page_bytes, page_bytes + 1, 300 * page_bytes}) {
    CAPTURE(bytes);
    const UniqueFd fd = create_shared_segment("test", bytes);
    const std::size_t size = std::max(page_bytes, (bytes + page_bytes - 1) / page_bytes * page_bytes);
    CHECK(static_cast<std::size_t>(status_of(fd).st_size) == size);
    CHECK(static_cast<std::size_t>(status_of(fd).st_blocks) * 512 >= size);
    const Mapping mapping = map_shared("test", fd.get(), bytes);
    CHECK(mapping.size() == size);
    CHECK(all_zero(mapping));
  }
}

TEST_CASE("two mappings of a segment, and a forked process, see the same bytes") {
  UniqueFd fd = create_shared_segment("test", page_bytes);
  const Mapping a = map_shared("test", fd.get(), page_bytes);
  const Mapping b = map_shared("test", fd.get(), page_bytes);
  fd.reset();
  REQUIRE(a.data() != b.data());
  volatile int* const here = static_cast<int*>(a.data());
  volatile int* const there = static_cast<int*>(b.data());
  *here = 17;
  CHECK(*there == 17);
  const pid_t child = ::fork();
  if (child == 0) {
    *here = 18;
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(*there == 18);
}

TEST_CASE("a mapping that asks for huge pages works like any other") {
  const std::size_t bytes = std::size_t{8} << 20;
  const UniqueFd fd = create_shared_segment("test", bytes);
  const Mapping shared = map_shared("test", fd.get(), bytes);
  const Mapping own = map_private("test", bytes);
  for (const Mapping* mapping : {&shared, &own}) {
    CHECK(mapping->size() == bytes);
    CHECK(all_zero(*mapping));
    static_cast<char*>(mapping->data())[bytes - 1] = 1;
    CHECK_FALSE(all_zero(*mapping));
  }
}

TEST_CASE("a mapping is unmapped once, by its last owner") {
  Mapping first = map_private("test", page_bytes);
  void* const data = first.data();
  REQUIRE(is_mapped(data));
  {
    Mapping second = std::move(first);
    CHECK(second.data() == data);
    CHECK_FALSE(static_cast<bool>(first));  // NOLINT(bugprone-use-after-move): what a move leaves is promised
    CHECK(first.size() == 0);
    Mapping third;
    third = std::move(second);
    CHECK(third.data() == data);
    CHECK(is_mapped(data));
  }
  CHECK_FALSE(is_mapped(data));
}

TEST_CASE("sizes beyond an address space are a usage error, without wrapping around") {
  const FileSizeLimit limit(1 << 20);
  for (const std::size_t bytes : {std::numeric_limits<std::size_t>::max(),
                                  static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max())}) {
    CHECK_THROWS_AS(create_shared_segment("test", bytes), UsageError);
    CHECK_THROWS_AS(map_private("test", bytes), UsageError);
  }
  CHECK_THROWS_AS(map_private("test", std::size_t{1} << 62), SystemError);
}

TEST_CASE("a segment that is too short, or no file, is refused") {
  const UniqueFd fd = create_shared_segment("test", page_bytes);
  CHECK_THROWS_AS(map_shared("test", fd.get(), page_bytes + 1), UsageError);
  CHECK_THROWS_WITH(map_shared("test", fd.get(), 3 * page_bytes),
                    doctest::Contains("a shared segment is too short; expected at least"));
  CHECK_THROWS_AS(map_shared("test", -1, page_bytes), SystemError);
}

TEST_CASE("a full shared memory file system is an error that names the remedy, and fills nothing") {
  struct statvfs room = {};
  if (::statvfs("/dev/shm", &room) != 0 || room.f_blocks == 0) SKIP_CASE("/dev/shm has no limit here");
  const std::size_t capacity = static_cast<std::size_t>(room.f_blocks) * room.f_frsize;
  const FileSizeLimit limit(1 << 20);
  const Refusal refused = refusal(capacity + (std::size_t{1} << 30));
  CAPTURE(refused.message);
  CHECK(refused.number == ENOSPC);
  CHECK(contains(refused.message, "the shared memory file system has no room for"));
  CHECK(contains(refused.message, "--shm-size"));
  CHECK(contains(refused.message, "buffer_bytes"));
}

TEST_CASE("more than the machine's memory is an error where no file system sets a limit") {
  const UniqueFd unlimited(::memfd_create("test", MFD_CLOEXEC));
  REQUIRE(allfold::detail::file_system_room(unlimited.get()) == UINT64_MAX);
  const FileSizeLimit limit(1 << 20);
  try {
    allfold::detail::reserve_file("test", unlimited.get(), std::size_t{1} << 60);
    FAIL("reserved an exbibyte");
  } catch (const SystemError& error) {
    CHECK(error.number() == ENOMEM);
    CHECK(contains(error.what(), "the system has no memory for a shared segment of"));
  }
  CHECK(status_of(unlimited).st_size == 0);
}

TEST_CASE("a limit on file sizes is an error, not a later SIGBUS") {
  const FileSizeLimit limit(1 << 20);
  const Refusal refused = refusal(std::size_t{2} << 20);
  CAPTURE(refused.message);
  CHECK(refused.number == EFBIG);
  CHECK(contains(refused.message, "ulimit -f"));
}

TEST_CASE("a profiler's timer does not keep a segment from being reserved") {
  const auto before = ::signal(SIGALRM, [](int) {});
  const itimerval every_ms = {{0, 1000}, {0, 1000}};
  REQUIRE(::setitimer(ITIMER_REAL, &every_ms, nullptr) == 0);
  const std::size_t bytes = std::size_t{48} << 20;
  const UniqueFd fd = create_shared_segment("test", bytes);
  const itimerval off = {};
  ::setitimer(ITIMER_REAL, &off, nullptr);
  ::signal(SIGALRM, before);
  CHECK(static_cast<std::size_t>(status_of(fd).st_blocks) * 512 >= bytes);
}

}  // namespace
