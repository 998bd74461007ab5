// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <allfold/base/error.hpp>
#include <allfold/work.hpp>

namespace allfold {

/// The messages under way that a rank may send to itself: such a send waits for ever unless a receive was posted
/// before.
class OwnMessages {
 public:
  /// Throws UsageError unless a send with this tag will be received.
  void expect_receive(const Where& where, int tag) {
    forget_over();
    int receives = 0;
    for (const Message& each : messages_) {
      if (each.tag == tag) receives += each.sends ? -1 : 1;
    }
    if (receives > 0) return;
    throw UsageError(where,
                     {"a message to this rank itself, with tag ", tag, ", would wait for ever; expected a receive ",
                      "from this rank that was posted before; call receive with {.async = true} first"});
  }

  void add(const Work& work, int tag, bool sends) {
    if (messages_.size() == messages_.capacity()) forget_over();
    messages_.push_back({work, tag, sends});
  }

 private:
  struct Message {
    Work work;
    int tag;
    bool sends;
  };

  void forget_over() {
    std::erase_if(messages_, [](const Message& each) { return each.work.over(); });
  }

  std::vector<Message> messages_;
};

}  // namespace allfold
