// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <allfold/base/environment.hpp>
#include <allfold/base/error.hpp>
#include <allfold/base/function_ref.hpp>
#include <allfold/communicator/store_gather.hpp>
#include <allfold/policy/identity.hpp>
#include <allfold/policy/meeting.hpp>
#include <allfold/policy/options.hpp>
#include <allfold/store/store_ref.hpp>

namespace allfold {

/// Runs `body`; if it throws, the other ranks are told why. `serves_store`: they need this rank to hear of it.
ALLFOLD_COLD inline void in_meeting(const Where& where, StoreGather& gather, Deadline deadline, bool serves_store,
                                    FunctionRef<void(Meeting&)> body) {
  Meeting meeting(where.operation(), where.rank(), where.world_size(), deadline, gather);
  try {
    body(meeting);
    meeting.barrier("all ranks are ready");
  } catch (const std::exception& error) {
    gather.give_up(error.what());
    if (serves_store) gather.linger();
    throw;
  }
  gather.tidy();
}

/// One attempt of all ranks to meet. Attempts are numbered: a communicator may be created again with the same store.
class Rendezvous {
 public:
  Rendezvous(StoreRef store, const Environment& environment, Deadline deadline)
      : store_(store),
        job_(environment.job),
        rank_(environment.rank),
        number_(begin(environment, deadline)),
        gather_(store, concat({job_, "/", number_}), Where("create", environment.rank, environment.world_size),
                environment.rank, environment.world_size, deadline) {}
  Rendezvous(const Rendezvous&) = delete;
  Rendezvous& operator=(const Rendezvous&) = delete;

  /// So that this rank may try again.
  ~Rendezvous() {
    try {
      store_.set(ended_key(number_), "", Deadline::after(std::chrono::seconds(2)));
    } catch (const std::exception&) {
      // Without the store there is no next attempt.
    }
  }

  StoreGather& gather() noexcept { return gather_; }
  /// What further exchanges of this communicator begin their keys with.
  std::string prefix() const { return concat({job_, "/", number_}); }

 private:
  std::string ended_key(std::int64_t number) const { return concat({job_, "/rank ", rank_, "/ended ", number}); }

  /// Counts this rank's attempts. One that began and did not end means that somebody else has this rank.
  std::int64_t begin(const Environment& environment, Deadline deadline) {
    const std::string counter = concat({job_, "/rank ", rank_});
    const std::int64_t number = store_.add(counter, 1, deadline);
    const std::string before[] = {ended_key(number - 1)};
    if (number > 1 && !store_.check(before, deadline)) {
      store_.add(counter, -1, deadline);
      const Where where("create", rank_, environment.world_size);
      const std::string reason = concat({"rank ", rank_, " is taken twice; expected every rank from 0 to ",
                                         environment.world_size - 1, " once; see how the ranks are numbered"});
      StoreGather(store_, concat({job_, "/", number - 1}), where, rank_, environment.world_size, deadline)
          .give_up(reason);
      throw UsageError(where, {reason});
    }
    return number;
  }

  StoreRef store_;
  std::string job_;
  int rank_;
  std::int64_t number_;
  StoreGather gather_;
};

/// Throws UsageError unless the environment names a rank of a world.
ALLFOLD_COLD inline void check_environment(const Environment& environment, std::string_view transport,
                                           int max_world_size) {
  if (environment.world_size < 1 || environment.world_size > max_world_size) {
    throw UsageError("create", {"the world size is ", environment.world_size, "; expected 1 to ", max_world_size,
                                ", which is what the transport \"", transport, "\" spans"});
  }
  if (environment.rank < 0 || environment.rank >= environment.world_size) {
    throw UsageError("create", {"the rank is ", environment.rank, "; expected 0 to ", environment.world_size - 1,
                                " in a world of ", environment.world_size});
  }
}

/// Throws UsageError for options that mean nothing.
ALLFOLD_COLD inline void check_options(const Where& where, const Options& options) {
  const auto expect = [&](bool good, std::string_view option, std::string_view range) {
    if (!good) throw UsageError(where, {"Options::", option, " is out of range; expected ", range});
  };
  expect(options.timeout > Duration::zero(), "timeout", "more than zero");
  expect(options.rendezvous_timeout > Duration::zero(), "rendezvous_timeout", "more than zero");
  expect(options.channels >= 1 && options.channels <= 64, "channels", "1 to 64");
  expect(options.blocks >= 0 && options.blocks <= 64, "blocks", "1 to 64, or 0 for the transport's choice");
  expect(options.lanes >= 0 && options.lanes <= 64, "lanes", "1 to 64, or 0 for the transport's choice");
  expect(options.buffer_bytes >= 4096 && options.buffer_bytes <= (std::size_t{1} << 40), "buffer_bytes",
         "4096 bytes to 1 TiB");
}

/// What a rank calls to get symmetric memory together with the others; all of it must agree.
struct MemoryRequest {
  char operation[16] = {};
  char type_name[24] = {};
  std::uint64_t type = 0;  ///< type_identity
  std::uint64_t count = 0;
  std::uint64_t element_bytes = 0;

  std::string text() const { return concat({operation, " of ", count, " ", type_name}); }
};

/// Throws MismatchError that names the first rank that calls something else.
ALLFOLD_COLD inline void check_requests(const Where& where, const std::vector<MemoryRequest>& all) {
  const MemoryRequest& mine = all[static_cast<std::size_t>(where.rank())];
  for (std::size_t r = 0; r < all.size(); ++r) {
    const MemoryRequest& theirs = all[r];
    if (theirs.type == mine.type && theirs.count == mine.count && theirs.element_bytes == mine.element_bytes &&
        std::string_view(theirs.operation) == mine.operation) {
      continue;
    }
    throw MismatchError(where, static_cast<int>(r),
                        {"ranks disagree; this rank calls ", mine.text(), ", but rank ", r, " calls ", theirs.text(),
                         "; every rank must ask for as many elements of the same type"});
  }
}

/// What ranks tell each other first; all but the identity must agree.
struct Introduction {
  Identity identity;
  char transport[16] = {};
  std::uint64_t buffer_bytes = 0;
  std::int32_t world_size = 0;
  std::int32_t channels = 0;
  std::int32_t blocks = 0;
  std::int32_t lanes = 0;
};

/// Throws MismatchError that names the first difference.
ALLFOLD_COLD inline void check_introductions(const Where& where, const std::vector<Introduction>& all) {
  const Introduction& mine = all[static_cast<std::size_t>(where.rank())];
  for (std::size_t r = 0; r < all.size(); ++r) {
    const Introduction& theirs = all[r];
    const auto agree = [&](std::string_view what, std::uint64_t a, std::uint64_t b) {
      if (a == b) return;
      throw MismatchError(
          where, static_cast<int>(r),
          {"ranks disagree on ", what, "; this rank has ", a, ", rank ", r, " has ", b, "; give every rank the same"});
    };
    if (std::string_view(mine.transport) != theirs.transport) {
      throw MismatchError(where, static_cast<int>(r),
                          {"ranks disagree on the transport; this rank has ", mine.transport, ", rank ", r, " has ",
                           theirs.transport, "; give every rank the same"});
    }
    agree("the world size", static_cast<std::uint64_t>(mine.world_size), static_cast<std::uint64_t>(theirs.world_size));
    agree("Options::channels", static_cast<std::uint64_t>(mine.channels), static_cast<std::uint64_t>(theirs.channels));
    agree("Options::blocks", static_cast<std::uint64_t>(mine.blocks), static_cast<std::uint64_t>(theirs.blocks));
    agree("Options::lanes", static_cast<std::uint64_t>(mine.lanes), static_cast<std::uint64_t>(theirs.lanes));
    agree("Options::buffer_bytes", mine.buffer_bytes, theirs.buffer_bytes);
  }
}

/// Tells the others who this rank is; gives who they are: [world_size].
ALLFOLD_COLD inline std::vector<Identity> introduce(Meeting& meeting, const Introduction& mine) {
  const std::vector<Introduction> all = meeting.all_gather("introductions", mine);
  check_introductions(meeting.where(), all);
  std::vector<Identity> identities;
  identities.reserve(all.size());
  for (const Introduction& each : all) identities.push_back(each.identity);
  return identities;
}

}  // namespace allfold
