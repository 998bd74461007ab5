// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/allfold.cuh>

#include <support/gpu_all_reduce.cuh>

using namespace std::chrono_literals;
using allfold::Algorithm;
using allfold_test::RankGpu;

namespace {

using Selector = allfold::FixedSelector<Algorithm::two_shot>;
using Comm = allfold::Communicator<allfold::NvlinkTransport, Selector>;
using Checks = allfold_test::GpuChecks<float, allfold::Sum>;

allfold::Options impatient() {
  allfold::Options options = allfold_test::gpu_options();
  options.rendezvous_timeout = 20s;
  return options;
}

}  // namespace

TEST_CASE("every rank knows its place, and every pair of GPUs was verified") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3, 4, 5, 6, 7, 8}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Checks checks(gpu, environment, allfold::sum, 1000, 1);
    Comm comm = Comm::create(environment, allfold_test::gpu_options());
    EXPECT(comm.rank() == environment.rank);
    EXPECT(comm.world_size() == environment.world_size);
    checks.check_counts(comm, {1, 1000});
    comm.status();
  });
}

TEST_CASE("create again, and again, in the same processes") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Checks checks(gpu, environment, allfold::sum, 100, 2);
    for (int round = 0; round < 5; ++round) {
      static_cast<void>(cudaSetDevice(1 << 20));  // an error of the program's own, which it has not read
      Comm comm = Comm::create(environment, impatient());
      EXPECT(cudaGetLastError() == cudaErrorInvalidDevice);
      auto x = comm.allocate<float>(allfold_test::GpuChecks<float, allfold::Sum>::room(100));
      checks.check_counts(comm, {100});
      checks.check(comm, x.span(), 0, x.span(), 0, 100, {});
    }
  });
}

TEST_CASE("two communicators side by side") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Checks checks(gpu, environment, allfold::sum, 100, 3);
    allfold::TcpStore store = allfold::TcpStore::connect(environment, allfold::Deadline::after(30s));
    Comm first = Comm::create(environment, store, impatient());
    Comm second = Comm::create(environment, store, impatient());
    for (int round = 0; round < 5; ++round) {
      checks.check_counts(second, {100});
      checks.check_counts(first, {100});
    }
  });
}

TEST_CASE("both topologies see the GPUs of a machine") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 4}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Checks checks(gpu, environment, allfold::sum, 100, 4);
    const auto by_nvml = allfold::Communicator<allfold::NvlinkTransport, Selector, allfold::NvmlTopology>::create(
        environment, impatient());
    auto by_peer_access =
        allfold::Communicator<allfold::NvlinkTransport, Selector, allfold::PeerAccessTopology>::create(environment,
                                                                                                       impatient());
    EXPECT(by_nvml.topology() == by_peer_access.topology());
    checks.check_counts(by_peer_access, {100});
  });
}

TEST_CASE("two ranks on one GPU are refused, unless that is asked for") {
  NEEDS_GPU();
  const auto body = [](const allfold::Environment& environment, RankGpu& gpu) {
    auto attempt = Comm::try_create(environment, impatient());
    EXPECT(!attempt);
    EXPECT(attempt.code() == allfold::ErrorCode::usage);
    allfold_test::expect_contains(attempt.reason(), {"ranks 0 and 1", "same GPU", "ALLFOLD_SHARE_DEVICE=1"});
    // CUDA goes on as if nothing had been asked.
    gpu.synchronize();
    EXPECT_CUDA(cudaGetLastError());
  };
  for (const allfold::Ranks ranks : {allfold::Ranks::processes, allfold::Ranks::threads}) {
    const allfold_test::GpuLayout layout{.world_size = 2, .ranks = ranks, .gpus = 1, .may_share = false};
    allfold_test::run_on_gpus(layout, body, 60s, allfold::SourceLocation::current());
  }
}

TEST_CASE("ranks of different hosts are refused") {
  NEEDS_GPU();
  allfold_test::over_gpu_processes({2}, [](const allfold::Environment& environment, RankGpu&) {
    ::setenv("ALLFOLD_HOST_ID", environment.rank == 0 ? "here" : "there", 1);
    auto attempt = Comm::try_create(environment, impatient());
    EXPECT(!attempt);
    EXPECT(attempt.code() == allfold::ErrorCode::usage);
    allfold_test::expect_contains(attempt.reason(), {"different hosts", "rank 1"});
  });
}

TEST_CASE("a world of one is refused, and one of nine") {
  NEEDS_GPU();
  for (const int world_size : {1, 9}) {
    const auto body = [&](const allfold::Environment& environment, RankGpu& gpu) {
      const std::string message = EXPECT_THROWS_AS(Comm::create(environment, impatient()), allfold::UsageError);
      allfold_test::expect_contains(
          message, {world_size == 1 ? "this world has 1 rank" : "the world size is 9; expected 1 to 8"});
      gpu.synchronize();
    };
    const allfold_test::GpuLayout layout{
        .world_size = world_size, .ranks = allfold::Ranks::processes, .gpus = allfold_test::usable_gpus()};
    allfold_test::run_on_gpus(layout, body, 60s, allfold::SourceLocation::current());
  }
}

TEST_CASE("a rank whose bytes do not arrive is named before anything is summed") {
  NEEDS_GPU();
  const auto body = [](const allfold::Environment&, RankGpu& gpu) {
    // Rank 0 of two, and nobody writes for rank 1.
    allfold_test::DeviceField<char> part(2 * allfold::VerifyCells::most_bytes);
    EXPECT_CUDA(cudaMemset(part.data(), 0, 2 * allfold::VerifyCells::most_bytes));
    allfold_test::PinnedField<int> verdict(1);
    allfold::Buffer buffer{.at = {part.data(), part.data() + allfold::VerifyCells::most_bytes}};
    const auto gather = [](std::string_view, std::string_view mine) {
      return std::vector<std::string>(2, std::string(mine));
    };
    allfold::Meeting meeting("create", 0, 2, allfold::Deadline::after(10s), gather);
    const auto verify = [&] {
      allfold::verify_reach(meeting, buffer, allfold::VerifyCells::most_bytes, gpu.stream(), verdict.data(),
                            verdict.data());
    };
    allfold_test::expect_contains(EXPECT_THROWS_AS(verify(), allfold::PeerError),
                                  {"what the GPU of rank 1 wrote into memory of rank", "did not arrive"});
  };
  allfold_test::run_on_gpus({1, allfold::Ranks::processes, 1}, body, 60s, allfold::SourceLocation::current());
}

TEST_CASE("a rank that does not come is named, and CUDA survives") {
  NEEDS_GPU();
  allfold_test::over_gpus({2, 3}, [](const allfold::Environment& environment, RankGpu& gpu) {
    gpu.meet();  // CUDA has started everywhere
    if (environment.rank == 1) return;
    allfold::Options options = allfold_test::gpu_options();
    options.rendezvous_timeout = 1500ms;
    const auto begin = allfold::Clock::now();
    auto attempt = Comm::try_create(environment, options);
    EXPECT(!attempt);
    EXPECT(allfold::Clock::now() - begin < 15s);
    allfold_test::expect_contains(attempt.reason(), {"rank 1"});
    gpu.synchronize();
    EXPECT_CUDA(cudaGetLastError());
  });
}

TEST_CASE("after a refused rendezvous, create again") {
  NEEDS_GPU();
  allfold_test::over_gpus({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Checks checks(gpu, environment, allfold::sum, 100, 6);
    allfold::Options options = impatient();
    options.channels = environment.rank + 1;
    EXPECT_THROWS_AS(Comm::create(environment, options), allfold::Error);
    Comm comm = Comm::create(environment, impatient());
    checks.check_counts(comm, {100});
  });
}

TEST_CASE("either handle type works, or is refused with a reason") {
  NEEDS_GPU();
  const auto body = [](const allfold::Environment& environment, RankGpu& gpu) {
    const char* const wish = std::getenv("ALLFOLD_HANDLE_TYPE");
    Checks checks(gpu, environment, allfold::sum, 1000, 7);
    auto attempt = Comm::try_create(environment, impatient());
    if (attempt) {
      auto x = attempt->allocate<float>(Checks::room(1000));
      checks.check(attempt.value(), x.span(), 0, x.span(), 0, 1000, {});
      gpu.meet();
    } else {
      EXPECT(wish != nullptr && std::string(wish) == "fabric");
      allfold_test::expect_contains(attempt.reason(), {"ALLFOLD_HANDLE_TYPE asks for fabric handles", "try fd"});
    }
    EXPECT_CUDA(cudaGetLastError());
  };
  allfold_test::over_gpus({2, 3}, body);
  for (const char* const type : {"fd", "fabric"}) {
    const allfold_test::HandleTypeWish wish(type);
    allfold_test::over_gpus({2, 3}, body);
  }
}

TEST_CASE("ranks that ask for different handle types are told") {
  NEEDS_GPU();
  allfold_test::over_gpu_processes({2}, [](const allfold::Environment& environment, RankGpu& gpu) {
    Checks checks(gpu, environment, allfold::sum, 100, 8);
    {
      const allfold_test::HandleTypeWish wish(environment.rank == 0 ? "fd" : "fabric");
      allfold_test::expect_contains(EXPECT_THROWS_AS(Comm::create(environment, impatient()), allfold::MismatchError),
                                    {"ranks disagree on ALLFOLD_HANDLE_TYPE"});
    }
    Comm comm = Comm::create(environment, impatient());
    checks.check_counts(comm, {100});
  });
}
