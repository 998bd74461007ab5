// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include <allfold/base/deadline.hpp>
#include <allfold/base/function_ref.hpp>
#include <allfold/launch/message_operation.hpp>
#include <allfold/launch/message_progress.hpp>

namespace allfold {

/// Progress by the caller: whoever waits, polls or begins an operation moves all of them on. No thread, and the
/// shortest way; between calls nothing moves. For one thread at a time.
template <class Worker>
class CallerProgress final : public MessageProgress {
 public:
  static constexpr bool has_thread = false;

  explicit CallerProgress(Worker& worker) noexcept : worker_(worker) {}
  CallerProgress(const CallerProgress&) = delete;
  CallerProgress& operator=(const CallerProgress&) = delete;
  ~CallerProgress() { close(); }

  void post(OperationRef operation, Duration timeout, bool) override {
    operations_.begin(*operation.give(), timeout);
    operations_.conclude_ended();
  }

  bool wait(MessageOperation& operation, Deadline until) override {
    bool enough = false;
    worker_.drive(
        [&] {
          operations_.conclude_ended();
          return operation.over() || enough;
        },
        [&](Clock::time_point now) {
          enough = now >= until.at();
          return operations_.late(now);
        });
    operations_.conclude_ended();
    return operation.over();
  }

  void poll() override {
    worker_.advance();
    operations_.conclude_ended();
    if (const Clock::time_point now = Clock::now(); now >= look_at_) {
      look_at_ = now + look_interval;
      worker_.look(operations_.late(now));
      operations_.conclude_ended();
    }
  }

  bool may_wait() const noexcept override { return true; }

  /// See make_progressing().
  template <class Owner>
  void let_go(std::unique_ptr<Owner>) noexcept {}

  /// Runs `body` where progress is made, and concludes what has ended by it.
  void run(FunctionRef<void()> body) {
    body();
    operations_.conclude_ended();
  }

  /// What is under way never ends: whoever waits is told.
  void close() noexcept {
    operations_.conclude_ended();
    operations_.abandon();
  }

 private:
  Worker& worker_;
  MessageOperations operations_;
  Clock::time_point look_at_{};  ///< of poll
};

}  // namespace allfold
