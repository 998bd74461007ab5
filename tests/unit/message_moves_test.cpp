// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/algo/message/all_gather.hpp>
#include <allfold/algo/message/all_to_all.hpp>
#include <allfold/algo/message/barrier.hpp>
#include <allfold/algo/message/broadcast.hpp>
#include <allfold/algo/message/gather.hpp>
#include <allfold/algo/message/scatter.hpp>
#include <allfold/exec/simulated_network.hpp>

#include <support/random.hpp>
#include <support/simulated.hpp>

using allfold::Parts;
using allfold::SimulatedEndpoint;
using allfold::SimulatedNetwork;
using allfold::Task;
using allfold_test::fill;
using allfold_test::holds;
namespace message = allfold::message;

namespace {

using Bytes = std::vector<unsigned char>;

constexpr std::size_t guard = 16;
constexpr unsigned char canary = 0x5a;

/// One rank's two buffers, with canaries behind them.
struct Buffers {
  Bytes in;
  Bytes out;

  Buffers(std::size_t in_bytes, std::size_t out_bytes) : in(in_bytes + guard, canary), out(out_bytes + guard, canary) {}

  bool guards_hold() const {
    bool hold = true;
    for (const Bytes* bytes : {&in, &out}) {
      for (std::size_t i = bytes->size() - guard; i < bytes->size(); ++i) hold = hold && (*bytes)[i] == canary;
    }
    return hold;
  }
};

constexpr std::size_t sizes[] = {0, 1, 7, 300};

/// Few ranks have sizes besides that are cut into an even and an odd number of pieces.
std::vector<std::size_t> sizes_for(int world_size) {
  std::vector<std::size_t> all(std::begin(sizes), std::end(sizes));
  if (world_size <= 4) all.insert(all.end(), {2 * allfold::piece_bytes, 2 * allfold::piece_bytes + 5});
  if (world_size == 2) all.push_back(33 * allfold::piece_bytes);
  return all;
}

/// Runs `body` on networks of every kind and of every world size: `body(network, world_size, what)`.
template <class Body>
void on_networks(const char* name, Body&& body) {
  for (const int world_size : allfold_test::world_sizes) {
    std::uint64_t seed = 0;
    for (const allfold::NetworkModel& model : allfold_test::eager_models()) {
      SimulatedNetwork network(world_size, model, allfold_test::uneven(++seed));
      body(network, world_size, allfold::concat({name, ", ", world_size, " ranks, eager to ", model.eager_bytes}));
    }
  }
}

std::size_t n(int ranks) { return static_cast<std::size_t>(ranks); }

/// Sizes that differ from pair to pair, zero among them.
std::size_t uneven_size(int from, int to) { return static_cast<std::size_t>((from * 7 + to * 13) % 5) * 61; }

/// Two lists as `Parts` takes them, of parts with gaps between them.
struct Lists {
  std::vector<std::size_t> part_sizes;
  std::vector<std::size_t> begins;
  std::size_t total = 0;

  template <class SizeOf>
  Lists(int ranks, SizeOf&& size_of) {
    for (int r = 0; r < ranks; ++r) {
      part_sizes.push_back(size_of(r));
      begins.push_back(total);
      total += part_sizes.back() + 3;
    }
  }
  Parts parts() const { return Parts::listed(part_sizes.data(), begins.data()); }
};

/// An endpoint whose pieces are shorter than others'.
struct ShortPieces : SimulatedEndpoint {
  ShortPieces(const SimulatedEndpoint& e, std::size_t& longest_message)
      : SimulatedEndpoint(e), longest(longest_message) {}

  static constexpr std::size_t piece = 64;
  std::size_t piece_bytes() const noexcept { return piece; }

  allfold::SimulatedTransfer send(int peer, int step, const void* from, std::size_t bytes) {
    longest = std::max(longest, bytes);
    return SimulatedEndpoint::send(peer, step, from, bytes);
  }

  std::size_t& longest;
};

}  // namespace

TEST_CASE("barrier: nobody leaves before the last has come") {
  on_networks("barrier", [](SimulatedNetwork& network, int world_size, const std::string& what) {
    int came = 0;
    bool early = false;
    const auto run = network.run([&](SimulatedEndpoint& e) -> Task<bool> {
      ++came;
      const bool ok = co_await message::barrier_dissemination(e);
      early = early || came != world_size;
      co_return ok;
    });
    allfold_test::check_run(run, what);
    CHECK_FALSE(early);
  });
}

TEST_CASE("broadcast: every rank gets the root's bytes") {
  on_networks("broadcast", [](SimulatedNetwork& network, int world_size, const std::string& what) {
    for (const allfold::BroadcastMotion motion : allfold::broadcast_motions) {
      for (const std::size_t bytes : sizes_for(world_size)) {
        const int root = static_cast<int>(bytes) % world_size;
        std::vector<Buffers> data(n(world_size), Buffers(bytes, 0));
        fill(data[n(root)].in, 0, bytes, root, 0);
        const auto run = network.run([&](SimulatedEndpoint& e) {
          return message::broadcast(e, motion, data[n(e.rank())].in.data(), bytes, root);
        });
        allfold_test::check_run(run, allfold::concat({what, ", ", name(motion), ", ", bytes, " bytes"}));
        for (const Buffers& of_rank : data) CHECK((holds(of_rank.in, 0, bytes, root, 0) && of_rank.guards_hold()));
      }
    }
  });
}

TEST_CASE("an endpoint says how long pieces are") {
  on_networks("short pieces", [](SimulatedNetwork& network, int world_size, const std::string& what) {
    for (const std::size_t bytes : {std::size_t{300}, 33 * ShortPieces::piece + 5}) {
      std::size_t longest = 0;
      std::vector<Buffers> data(n(world_size), Buffers(bytes, bytes * n(world_size)));
      fill(data[0].in, 0, bytes, 0, 0);
      const auto run = network.run([&](SimulatedEndpoint& simulated) -> Task<bool> {
        ShortPieces e(simulated, longest);
        Buffers& mine = data[n(e.rank())];
        if (!co_await message::broadcast(e, allfold::BroadcastMotion::knomial, mine.in.data(), bytes, 0))
          co_return false;
        e.next();
        co_return co_await message::all_gather(e, allfold::AllGatherMotion::pairwise, mine.in.data(), mine.out.data(),
                                               bytes);
      });
      allfold_test::check_run(run, what);
      for (const Buffers& of_rank : data) {
        bool right = of_rank.guards_hold();
        for (int r = 0; r < world_size; ++r) right = right && holds(of_rank.out, n(r) * bytes, bytes, 0, 0);
        CHECK(right);
      }
      CHECK((world_size == 1 || (longest > 0 && longest <= ShortPieces::piece)));
    }
  });
}

TEST_CASE("all_gather: every rank gets every rank's part, in place or not") {
  on_networks("all_gather", [](SimulatedNetwork& network, int world_size, const std::string& what) {
    for (const allfold::AllGatherMotion motion : allfold::all_gather_motions) {
      for (const std::size_t each : sizes_for(world_size)) {
        const bool in_place = each == 7;
        std::vector<Buffers> data(n(world_size), Buffers(each, each * n(world_size)));
        for (int r = 0; r < world_size; ++r) {
          fill(data[n(r)].in, 0, each, r, 0);
          if (in_place) fill(data[n(r)].out, n(r) * each, each, r, 0);
        }
        const auto run = network.run([&](SimulatedEndpoint& e) {
          Buffers& mine = data[n(e.rank())];
          const void* const in = in_place ? mine.out.data() + n(e.rank()) * each : mine.in.data();
          return message::all_gather(e, motion, in, mine.out.data(), each);
        });
        allfold_test::check_run(run, allfold::concat({what, ", ", name(motion), ", ", each, " bytes each"}));
        for (const Buffers& of_rank : data) {
          bool right = of_rank.guards_hold();
          for (int r = 0; r < world_size; ++r) right = right && holds(of_rank.out, n(r) * each, each, r, 0);
          CHECK(right);
        }
      }
    }
  });
}

TEST_CASE("all_gather_v: parts of any size go where the lists say, and nothing else is touched") {
  on_networks("all_gather_v", [](SimulatedNetwork& network, int world_size, const std::string& what) {
    const Lists lists(world_size, [](int r) { return uneven_size(r, 0); });
    std::vector<Buffers> data;
    for (int r = 0; r < world_size; ++r) {
      data.emplace_back(uneven_size(r, 0), lists.total);
      fill(data.back().in, 0, uneven_size(r, 0), r, 0);
    }
    const auto run = network.run([&](SimulatedEndpoint& e) {
      Buffers& mine = data[n(e.rank())];
      return message::all_gather_ring(e, mine.in.data(), mine.out.data(), lists.parts());
    });
    allfold_test::check_run(run, what);
    for (const Buffers& of_rank : data) {
      bool right = of_rank.guards_hold();
      for (int r = 0; r < world_size; ++r) {
        const std::size_t end = lists.begins[n(r)] + lists.part_sizes[n(r)];
        right = right && holds(of_rank.out, lists.begins[n(r)], lists.part_sizes[n(r)], r, 0);
        for (std::size_t gap = end; gap < end + 3; ++gap) right = right && of_rank.out[gap] == canary;
      }
      CHECK(right);
    }
  });
}

TEST_CASE("all_to_all: part r of rank s becomes part s of rank r, in place or not") {
  on_networks("all_to_all", [](SimulatedNetwork& network, int world_size, const std::string& what) {
    for (const allfold::AllToAllMotion motion : allfold::all_to_all_motions) {
      for (const std::size_t each : sizes_for(world_size)) {
        const bool in_place = each != 7;
        std::vector<Buffers> data(n(world_size), Buffers(each * n(world_size), each * n(world_size)));
        for (int r = 0; r < world_size; ++r) {
          for (int to = 0; to < world_size; ++to) {
            fill(in_place ? data[n(r)].out : data[n(r)].in, n(to) * each, each, r, to);
          }
        }
        const auto run = network.run([&](SimulatedEndpoint& e) {
          Buffers& mine = data[n(e.rank())];
          return message::all_to_all(e, motion, in_place ? mine.out.data() : mine.in.data(), mine.out.data(), each);
        });
        allfold_test::check_run(run, allfold::concat({what, ", ", name(motion), ", ", each, " bytes each"}));
        for (int r = 0; r < world_size; ++r) {
          bool right = data[n(r)].guards_hold();
          for (int from = 0; from < world_size; ++from) {
            right = right && holds(data[n(r)].out, n(from) * each, each, from, r);
          }
          CHECK(right);
        }
      }
    }
  });
}

TEST_CASE("all_to_all_v: parts of any size") {
  on_networks("all_to_all_v", [](SimulatedNetwork& network, int world_size, const std::string& what) {
    std::vector<Lists> leaving, coming;
    std::vector<Buffers> data;
    for (int r = 0; r < world_size; ++r) {
      leaving.emplace_back(world_size, [r](int to) { return uneven_size(r, to); });
      coming.emplace_back(world_size, [r](int from) { return uneven_size(from, r); });
      data.emplace_back(leaving.back().total, coming.back().total);
      for (int to = 0; to < world_size; ++to) {
        fill(data.back().in, leaving.back().begins[n(to)], uneven_size(r, to), r, to);
      }
    }
    const auto run = network.run([&](SimulatedEndpoint& e) {
      Buffers& mine = data[n(e.rank())];
      return message::all_to_all_pairwise(e, mine.in.data(), leaving[n(e.rank())].parts(), mine.out.data(),
                                          coming[n(e.rank())].parts());
    });
    allfold_test::check_run(run, what);
    for (int r = 0; r < world_size; ++r) {
      bool right = data[n(r)].guards_hold();
      for (int from = 0; from < world_size; ++from) {
        right = right && holds(data[n(r)].out, coming[n(r)].begins[n(from)], uneven_size(from, r), from, r);
      }
      CHECK(right);
    }
  });
}

TEST_CASE("gather and scatter, down trees of every radix and from every root") {
  on_networks("gather and scatter", [](SimulatedNetwork& network, int world_size, const std::string& what) {
    for (const std::size_t each : sizes) {
      for (const int root : {0, world_size / 3, world_size - 1}) {
        for (const int radix : {2, 3, 4, 8}) {
          if ((world_size + root + static_cast<int>(each)) % 4 != radix % 4 && radix != 4) continue;
          const std::size_t all = each * n(world_size);
          std::vector<Buffers> data;
          for (int r = 0; r < world_size; ++r) {
            data.emplace_back(each, r == root ? all : 0);
            fill(data.back().in, 0, each, r, 0);
          }
          // What was gathered is scattered again, over inputs that are overwritten in between.
          const auto run = network.run([&](SimulatedEndpoint& e) -> Task<bool> {
            Buffers& mine = data[n(e.rank())];
            if (!co_await message::gather_knomial(e, mine.in.data(), mine.out.data(), each, root, radix)) {
              co_return false;
            }
            if (e.rank() == root) {
              for (int r = 0; r < world_size; ++r) CHECK(holds(mine.out, n(r) * each, each, r, 0));
            }
            std::memset(mine.in.data(), 0, each);
            e.next();
            co_return co_await message::scatter_knomial(e, mine.out.data(), mine.in.data(), each, root, radix);
          });
          allfold_test::check_run(run,
                                  allfold::concat({what, ", ", each, " bytes each, root ", root, ", radix ", radix}));
          for (int r = 0; r < world_size; ++r) {
            CHECK((holds(data[n(r)].in, 0, each, r, 0) && data[n(r)].guards_hold()));
          }
        }
      }
    }
  });
}

TEST_CASE("gather_v and scatter_v: parts of any size") {
  on_networks("gather_v and scatter_v", [](SimulatedNetwork& network, int world_size, const std::string& what) {
    const int root = world_size / 2;
    const Lists lists(world_size, [](int r) { return uneven_size(r, 1); });
    std::vector<Buffers> data;
    for (int r = 0; r < world_size; ++r) {
      data.emplace_back(uneven_size(r, 1), r == root ? lists.total : 0);
      fill(data.back().in, 0, uneven_size(r, 1), r, 0);
    }
    const auto run = network.run([&](SimulatedEndpoint& e) -> Task<bool> {
      Buffers& mine = data[n(e.rank())];
      if (!co_await message::gather_linear(e, mine.in.data(), mine.out.data(), lists.parts(), root)) co_return false;
      if (e.rank() == root) {
        for (int r = 0; r < world_size; ++r) CHECK(holds(mine.out, lists.begins[n(r)], lists.part_sizes[n(r)], r, 0));
      }
      std::memset(mine.in.data(), 0, mine.in.size() - guard);
      e.next();
      co_return co_await message::scatter_linear(e, mine.out.data(), mine.in.data(), lists.parts(), root);
    });
    allfold_test::check_run(run, what);
    for (int r = 0; r < world_size; ++r) {
      CHECK((holds(data[n(r)].in, 0, uneven_size(r, 1), r, 0) && data[n(r)].guards_hold()));
    }
  });
}

TEST_CASE("every motion ends when a rank is absent, and names it") {
  constexpr int world_size = 7;
  constexpr std::size_t each = 40;
  for (const int absent : {0, 3, 6}) {
    for (const allfold::NetworkModel& model : allfold_test::eager_models()) {
      allfold::Disturbance disturbance = allfold_test::uneven(9);
      disturbance.absent = {absent};
      SimulatedNetwork network(world_size, model, disturbance);
      std::vector<Buffers> data(world_size, Buffers(each * world_size, each * world_size));
      const auto check = [&](const std::string& what, auto&& body) {
        const auto run = network.run([&](SimulatedEndpoint& e) { return body(e, data[n(e.rank())]); });
        INFO(what << " without rank " << absent);
        REQUIRE(run.failure.has_value());
        CHECK(run.failure->source == absent);
        CHECK(run.failed_ranks > 0);
      };
      check("barrier", [](SimulatedEndpoint& e, Buffers&) { return message::barrier_dissemination(e); });
      for (const auto motion : allfold::all_gather_motions) {
        check(std::string(name(motion)), [&](SimulatedEndpoint& e, Buffers& mine) {
          return message::all_gather(e, motion, mine.in.data(), mine.out.data(), each);
        });
      }
      for (const auto motion : allfold::all_to_all_motions) {
        check(std::string(name(motion)), [&](SimulatedEndpoint& e, Buffers& mine) {
          return message::all_to_all(e, motion, mine.in.data(), mine.out.data(), each);
        });
      }
      check("gather", [&](SimulatedEndpoint& e, Buffers& mine) {
        return message::gather_knomial(e, mine.in.data(), mine.out.data(), each, (absent + 1) % world_size, 2);
      });
      check("scatter", [&](SimulatedEndpoint& e, Buffers& mine) {
        return message::scatter_linear(e, mine.in.data(), mine.out.data(), Parts::equal(each), absent);
      });
      for (const auto motion : allfold::broadcast_motions) {
        check(std::string(name(motion)), [&](SimulatedEndpoint& e, Buffers& mine) {
          return message::broadcast(e, motion, mine.in.data(), each, absent);
        });
      }
    }
  }
}
