// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include <sys/eventfd.h>
#include <unistd.h>

#include <allfold/base/error.hpp>
#include <allfold/base/unique_fd.hpp>

namespace allfold_test {

/// What tells letters between two ranks apart.
struct Subject {
  std::uint64_t call = 0;
  int step = 0;
  friend bool operator==(const Subject&, const Subject&) = default;
};

struct Letter {
  int from = 0;
  Subject subject;
  std::vector<char> text;
};

/// Why nobody goes on.
struct Misfortune {
  allfold::ErrorCode code{};
  int source = -1;  ///< the rank to blame
};

/// The mail of ranks that are threads of one process. Thread-safe.
class Mail {
 public:
  explicit Mail(int ranks) {
    for (int rank = 0; rank < ranks; ++rank) boxes_.push_back(std::make_unique<Box>());
  }

  void send(int to, Letter letter) {
    {
      const std::lock_guard lock(mutex_);
      box(to).letters.push_back(std::move(letter));
    }
    ring(to);
  }

  /// What has come for that rank since it last asked, in the order in which it was sent.
  std::vector<Letter> collect(int rank) {
    const std::lock_guard lock(mutex_);
    std::uint64_t rings = 0;
    static_cast<void>(!::read(box(rank).bell.get(), &rings, sizeof rings));
    return std::exchange(box(rank).letters, {});
  }

  /// Can be read when something has come for that rank.
  int bell(int rank) { return box(rank).bell.get(); }

  /// The first misfortune is everybody's.
  void fail(Misfortune why) {
    {
      const std::lock_guard lock(mutex_);
      if (!misfortune_) misfortune_ = why;
    }
    ring_all();
  }
  std::optional<Misfortune> misfortune() {
    const std::lock_guard lock(mutex_);
    return misfortune_;
  }

  void leave(int rank) {
    {
      const std::lock_guard lock(mutex_);
      box(rank).left = true;
    }
    ring_all();
  }
  bool has_left(int rank) {
    const std::lock_guard lock(mutex_);
    return box(rank).left;
  }

 private:
  struct Box {
    allfold::UniqueFd bell{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    std::vector<Letter> letters;
    bool left = false;
  };

  Box& box(int rank) { return *boxes_[static_cast<std::size_t>(rank)]; }
  void ring(int rank) {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(box(rank).bell.get(), &one, sizeof one));
  }
  void ring_all() {
    for (std::size_t rank = 0; rank < boxes_.size(); ++rank) ring(static_cast<int>(rank));
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Box>> boxes_;
  std::optional<Misfortune> misfortune_;
};

}  // namespace allfold_test
