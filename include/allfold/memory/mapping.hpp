// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>
#include <allfold/memory/small_file.hpp>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <utility>

namespace allfold {

/// Owns mapped memory and unmaps it.
class Mapping {
 public:
  Mapping() noexcept = default;
  /// Takes over what mmap(2) returned.
  Mapping(void* data, std::size_t size_bytes) noexcept : data_(data), size_(size_bytes) {}
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, std::size_t{0})) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Mapping() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }

  void* data() const noexcept { return data_; }
  /// In bytes; whole pages, so that it may be more than was asked for.
  std::size_t size() const noexcept { return size_; }
  explicit operator bool() const noexcept { return data_ != nullptr; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

namespace detail {

/// Mappings of at least this size are worth huge pages: below it the rounding costs more than the misses saved.
inline constexpr std::size_t huge_page_threshold_bytes = std::size_t{4} << 20;

/// Whole pages, at least one, and within what a file offset counts.
inline std::size_t round_to_pages(const Where& where, std::size_t bytes) {
  const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  constexpr std::size_t most = std::numeric_limits<std::ptrdiff_t>::max();
  if (bytes > most - page) {
    throw UsageError(where, {"a memory segment of ", bytes, " bytes is larger than an address space; expected at most ",
                             most - page, "; try a smaller count or buffer_bytes"});
  }
  return bytes == 0 ? page : (bytes + page - 1) / page * page;
}

inline Mapping map_pages(const Where& where, std::size_t bytes, int flags, int fd) {
  void* const data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (data == MAP_FAILED) throw SystemError(where, errno, {"mmap refused ", bytes, " bytes"});
  // Advice only: where huge pages are off, small ones serve as well.
  if (bytes >= huge_page_threshold_bytes) static_cast<void>(::madvise(data, bytes, MADV_HUGEPAGE));
  return Mapping(data, bytes);
}

/// Whether the file is kept in memory: some containers have a plain directory, on a disk, for /dev/shm.
inline bool is_memory(int fd) {
  struct statfs system = {};
  constexpr long tmpfs = 0x01021994;  // TMPFS_MAGIC of <linux/magic.h>
  return ::fstatfs(fd, &system) == 0 && system.f_type == tmpfs;
}

/// What the file's system still takes, in bytes; the largest number if it has no limit.
inline std::uint64_t file_system_room(int fd) {
  struct statfs system = {};
  if (::fstatfs(fd, &system) != 0 || system.f_blocks == 0) return UINT64_MAX;
  return static_cast<std::uint64_t>(system.f_bavail) * static_cast<std::uint64_t>(system.f_bsize);
}

/// What the machine can still give, in bytes, before it starts to kill processes; the largest number if unknown.
inline std::uint64_t memory_room() {
  char text[256];
  const std::string_view lines = read_small_file("/proc/meminfo", text);
  constexpr std::string_view label = "MemAvailable:";
  const std::size_t at = lines.find(label);
  const std::size_t digits = at == lines.npos ? at : lines.find_first_not_of(' ', at + label.size());
  std::uint64_t kib = 0;
  if (digits == lines.npos) return UINT64_MAX;
  std::from_chars(lines.data() + digits, lines.data() + lines.size(), kib);
  struct sysinfo system = {};
  const bool known = ::sysinfo(&system) == 0;
  return kib * 1024 + (known ? std::uint64_t{system.freeswap} * system.mem_unit : 0);
}

[[noreturn]] ALLFOLD_COLD inline void throw_no_room(const Where& where, int number, std::size_t bytes, int fd) {
  if (number == EFBIG) {
    throw SystemError(where, number,
                      {"a shared segment of ", bytes, " bytes is larger than this process may make a ",
                       "file; try ulimit -f unlimited, or a smaller buffer_bytes"});
  }
  if (number == ENOMEM || file_system_room(fd) == UINT64_MAX) {
    throw SystemError(where, number,
                      {"the system has no memory for a shared segment of ", bytes, " bytes; expected at most ",
                       memory_room(), " (what is available); try a smaller count or buffer_bytes"});
  }
  throw SystemError(
      where, number,
      {"the shared memory file system has no room for ", bytes, " bytes; expected at most ", file_system_room(fd),
       " (what is free); try a larger /dev/shm (docker run --shm-size), or a smaller buffer_bytes"});
}

/// Gives the file its size and its pages now: a page missing later would be a SIGBUS in the middle of a collective.
inline void reserve_file(const Where& where, int fd, std::size_t bytes) {
  // Asked first. A hopeless request would fill the file system for its neighbours before it fails, or, where that has
  // no limit below the machine's memory, end in the kernel's killing of processes that have nothing to do with it.
  if (bytes > file_system_room(fd)) throw_no_room(where, ENOSPC, bytes, fd);
  if (bytes > memory_room()) throw_no_room(where, ENOMEM, bytes, fd);
  // A signal undoes the whole step, so a step gets smaller until it fits between two ticks of a profiler's timer.
  std::size_t step = std::size_t{256} << 20;
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t now = std::min(step, bytes - done);
    const int number = ::posix_fallocate(fd, static_cast<off_t>(done), static_cast<off_t>(now));
    if (number == 0) {
      done += now;
    } else if (number == EINTR) {
      step = std::max(step / 2, std::size_t{64} << 10);
    } else {
      throw_no_room(where, number, bytes, fd);
    }
  }
}

}  // namespace detail

/// Makes a shared memory file that has no name, not even for an instant: it lives as long as a descriptor or a
/// mapping of it, and a process that is killed leaves nothing behind. Its `bytes` (rounded up to whole pages, at
/// least one) read as zero and are reserved: writing them cannot fail later.
/// @throws SystemError if there is no room for them; UsageError if no address space could hold them.
inline UniqueFd create_shared_segment(const Where& where, std::size_t bytes) {
  bytes = detail::round_to_pages(where, bytes);
  // O_EXCL: not even a later linkat(2) can name the file.
  UniqueFd fd(::open("/dev/shm", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
  if (!fd || !detail::is_memory(fd.get())) fd.reset(::memfd_create("allfold", MFD_CLOEXEC));
  if (!fd) throw SystemError(where, errno, {"could not make a shared memory file in /dev/shm, nor by memfd_create"});
  detail::reserve_file(where, fd.get(), bytes);
  return fd;
}

/// Maps the first `bytes` of a shared memory file, rounded up to whole pages, for reading and writing. The
/// descriptor may be closed afterwards.
/// @throws UsageError if the file is shorter; SystemError if the system refuses.
inline Mapping map_shared(const Where& where, int fd, std::size_t bytes) {
  struct stat file = {};
  if (::fstat(fd, &file) != 0) throw SystemError(where, errno, {"descriptor ", fd, " is no shared memory file"});
  if (static_cast<std::size_t>(file.st_size) < bytes) {
    throw UsageError(where, {"a shared segment is too short; expected at least ", bytes, " bytes, got ",
                             static_cast<std::size_t>(file.st_size), "; all ranks must ask for the same size"});
  }
  return detail::map_pages(where, detail::round_to_pages(where, bytes), MAP_SHARED, fd);
}

/// Maps `bytes` of zeros, rounded up to whole pages, which the threads of this process share.
/// @throws SystemError if the system refuses; UsageError if no address space could hold them.
inline Mapping map_private(const Where& where, std::size_t bytes) {
  return detail::map_pages(where, detail::round_to_pages(where, bytes), MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

}  // namespace allfold
