// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <allfold/base/unique_fd.hpp>
#include <allfold/policy/store.hpp>
#include <allfold/store/backoff.hpp>
#include <allfold/store/common.hpp>
#include <allfold/store/sha256.hpp>

namespace allfold {
namespace detail {

/// Between looks at a directory.
inline Backoff file_backoff() { return {std::chrono::microseconds(50), std::chrono::milliseconds(10)}; }

/// The file name of a key. Short keys stay readable: `k.` and the key, with %xx for what is not plain. A longer one
/// is `h.` and its SHA-256, and then the file holds the key before the value.
inline std::string file_name(std::string_view key) {
  constexpr char hex[] = "0123456789abcdef";
  constexpr std::size_t longest = 200;  // a name may have 255 bytes
  std::string out = "k.";
  for (const char c : key) {
    const unsigned byte = static_cast<unsigned char>(c);
    const bool plain =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
    if (plain) {
      out += c;
    } else {
      out += {'%', hex[byte / 16], hex[byte % 16]};
    }
    if (out.size() > longest) break;
  }
  if (out.size() <= longest) return out;
  out = "h.";
  for (const unsigned char byte : sha256(key)) out += {hex[byte / 16], hex[byte % 16]};
  return out;
}

}  // namespace detail

/// A store in a directory that all ranks see. Each key is a file, replaced as a whole by a rename: a reader, or a
/// writer that is killed, never leaves or sees half a value. Writers take turns under a lock that the kernel gives back
/// when its holder dies. Waits look at the directory every 10 milliseconds at the latest.
/// Thread safe; an object holds nothing but the directory's name. The files stay: use a fresh directory for each job,
/// and remove it afterwards. A network file system must support flock and close-to-open consistency.
class FileStore {
 public:
  using policy_category = store_tag;

  /// Creates `directory` unless it exists; its parent must exist.
  /// @throws UsageError if it is no directory; SystemError if it cannot be created.
  explicit FileStore(std::string directory) : directory_(std::move(directory)) {
    if (directory_.empty()) {
      throw UsageError("FileStore", {"the directory's name is empty; expected a directory that all ranks see"});
    }
    if (::mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST) {
      fail("FileStore", errno, "create", directory_);
    }
    struct stat info;
    if (::stat(directory_.c_str(), &info) != 0) fail("FileStore", errno, "open", directory_);
    if (!S_ISDIR(info.st_mode)) {
      throw UsageError("FileStore", {"expected a directory, got another file at ", directory_, "; try another name"});
    }
  }

  /// The store of this job: a directory named for Environment::job in Environment::meeting_directory.
  static FileStore connect(const Environment& environment, Deadline) {
    if (environment.meeting_directory.empty()) {
      throw UsageError(Where("FileStore::connect", environment.rank, environment.world_size),
                       {"no directory to meet in; expected Environment::meeting_directory to name one that all "
                        "ranks see, got an empty name; try environment.meeting_directory = \"/shared/folder\""});
    }
    const FileStore parent(environment.meeting_directory);
    return FileStore(parent.directory_ + "/job." + detail::file_name(environment.job));
  }

  const std::string& directory() const noexcept { return directory_; }

  /// Replaces the value of `key`.
  void set(std::string_view key, std::string_view value, Deadline deadline = default_store_deadline()) {
    const Lock lock(*this, "FileStore::set", deadline);
    write(key, value);
  }

  /// The value of `key`, once it exists.
  /// @throws TimeoutError if it does not by the deadline.
  std::string get(std::string_view key, Deadline deadline = default_store_deadline()) {
    const Duration timeout = deadline.remaining();
    std::string value;
    for (detail::Backoff backoff = detail::file_backoff(); !read(key, value); backoff.sleep(deadline)) {
      if (deadline.expired()) detail::throw_key_missing("FileStore::get", key, timeout);
    }
    return value;
  }

  /// Waits until all `keys` exist.
  /// @throws TimeoutError if they do not by the deadline; it names one that is missing.
  void wait(std::span<const std::string> keys, Deadline deadline = default_store_deadline()) {
    const Duration timeout = deadline.remaining();
    detail::Backoff backoff = detail::file_backoff();
    for (std::size_t first_missing = 0;;) {
      while (first_missing < keys.size() && exists(keys[first_missing])) ++first_missing;
      if (first_missing == keys.size()) {
        if (check(keys, deadline)) return;  // a key seen first may have gone while a later one was awaited
        first_missing = 0;
        continue;
      }
      if (deadline.expired()) detail::throw_key_missing("FileStore::wait", keys[first_missing], timeout);
      backoff.sleep(deadline);
    }
  }

  /// Adds `n` to the decimal number at `key` (absent: 0) and returns the sum.
  /// @throws UsageError if the value is no number, or the sum exceeds 64 bits.
  std::int64_t add(std::string_view key, std::int64_t n, Deadline deadline = default_store_deadline()) {
    const Lock lock(*this, "FileStore::add", deadline);
    std::string value;
    if (!read(key, value)) value = "0";
    std::int64_t sum = 0;
    const detail::Addition outcome = detail::add_decimal(value, n, sum);
    if (outcome != detail::Addition::ok) detail::throw_bad_sum("FileStore::add", outcome, key, n, value);
    write(key, concat({static_cast<long long>(sum)}));
    return sum;
  }

  /// Whether all `keys` exist now.
  bool check(std::span<const std::string> keys, Deadline = default_store_deadline()) {
    for (const std::string& key : keys) {
      if (!exists(key)) return false;
    }
    return true;
  }

  /// Removes `key`; returns whether it existed.
  bool erase(std::string_view key, Deadline deadline = default_store_deadline()) {
    const Lock lock(*this, "FileStore::erase", deadline);
    const std::string path = path_of(key);
    if (::unlink(path.c_str()) == 0) return true;
    if (errno != ENOENT) fail("FileStore::erase", errno, "remove", path);
    return false;
  }

  /// Sets `desired` if the value is `expected` (an absent key equals the empty string); returns the value afterwards
  /// (empty: absent).
  std::string compare_set(std::string_view key, std::string_view expected, std::string_view desired,
                          Deadline deadline = default_store_deadline()) {
    const Lock lock(*this, "FileStore::compare_set", deadline);
    std::string value;
    if (!read(key, value)) value.clear();
    if (value != expected) return value;
    write(key, desired);
    return std::string(desired);
  }

 private:
  /// The writers' turn. Unlocks by name: a child that was forked meanwhile shares the lock and would keep it.
  class Lock {
   public:
    Lock(const FileStore& store, const char* operation, Deadline deadline) {
      const std::string path = store.directory_ + "/lock";
      fd_.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
      if (!fd_) fail(operation, errno, "open", path);
      const Duration timeout = deadline.remaining();
      detail::Backoff backoff = detail::file_backoff();
      for (; ::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0; backoff.sleep(deadline)) {
        if (errno != EWOULDBLOCK && errno != EINTR) fail(operation, errno, "lock", path);
        if (deadline.expired()) {
          throw TimeoutError(operation, -1,
                             {"another writer holds ", path, "; expected it within ", detail::whole_ms(timeout),
                              " ms; try a longer deadline"});
        }
      }
    }
    ~Lock() { ::flock(fd_.get(), LOCK_UN); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    UniqueFd fd_;
  };

  [[noreturn]] ALLFOLD_COLD static void fail(const char* operation, int number, const char* what,
                                             const std::string& path) {
    throw SystemError(operation, number, {"cannot ", what, " ", path});
  }

  std::string path_of(std::string_view key) const { return directory_ + '/' + detail::file_name(key); }

  bool exists(std::string_view key) const {
    const std::string path = path_of(key);
    if (::access(path.c_str(), F_OK) == 0) return true;
    if (errno != ENOENT) fail("FileStore", errno, "look for", path);
    return false;
  }

  /// What stands before the value in the file: nothing, or for a long key its size and itself.
  static std::string preamble(std::string_view key) {
    return detail::file_name(key).front() == 'k' ? std::string() : concat({key.size(), "\n", key, "\n"});
  }

  bool read(std::string_view key, std::string& value) const {
    const std::string path = path_of(key);
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    for (int again = 0; !fd && again < 100 && (errno == EINTR || errno == ESTALE); ++again) {
      fd.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC));  // ESTALE: replaced meanwhile, on a network file system
    }
    if (!fd && errno == ENOENT) return false;
    if (!fd) fail("FileStore", errno, "open", path);
    value.clear();
    char chunk[16384];
    for (;;) {
      const ssize_t n = ::read(fd.get(), chunk, sizeof chunk);
      if (n == 0) break;
      if (n > 0) {
        value.append(chunk, static_cast<std::size_t>(n));
      } else if (errno != EINTR) {
        fail("FileStore", errno, "read", path);
      }
    }
    const std::string head = preamble(key);
    if (value.compare(0, head.size(), head) != 0) {
      throw UsageError("FileStore", {path, " does not hold key ", detail::quoted_key(key),
                                     "; expected a file that FileStore wrote; try a directory of its own"});
    }
    value.erase(0, head.size());
    return true;
  }

  /// Called under the lock, so that one name for the file in the making is enough, and a killed writer's is reused.
  void write(std::string_view key, std::string_view value) const {
    const std::string path = path_of(key), pending = directory_ + "/pending";
    UniqueFd fd(::open(pending.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!fd) fail("FileStore", errno, "create", pending);
    const std::string head = preamble(key);
    for (std::string_view rest : {std::string_view(head), value}) {
      while (!rest.empty()) {
        const ssize_t n = ::write(fd.get(), rest.data(), rest.size());
        if (n >= 0) {
          rest.remove_prefix(static_cast<std::size_t>(n));
        } else if (errno != EINTR) {
          fail("FileStore", errno, "write", pending);
        }
      }
    }
    fd.reset();
    if (::rename(pending.c_str(), path.c_str()) != 0) fail("FileStore", errno, "replace", path);
  }

  std::string directory_;
};
static_assert(connectable_store<FileStore>);

}  // namespace allfold
