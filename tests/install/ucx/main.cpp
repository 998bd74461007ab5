// SPDX-License-Identifier: Apache-2.0

/// A program of a user who has installed allfold and UCX: two local ranks add up their numbers by messages.

#include <cstdio>
#include <stdexcept>

#include <allfold/algo/message/all_reduce.hpp>
#include <allfold/exec/host_reduction.hpp>
#include <allfold/memory/host_identity.hpp>
#include <allfold/op/operators.hpp>
#include <allfold/rendezvous.hpp>
#include <allfold/spawn.hpp>
#include <allfold/store/tcp.hpp>
#include <allfold/transport/ucx_endpoint.hpp>
#include <allfold/version.hpp>

int main() {
  allfold::launch(2, [](const allfold::Environment& environment) {
    const allfold::Deadline deadline = allfold::Deadline::after(std::chrono::seconds(20));
    const allfold::Where where("create", environment.rank, environment.world_size);
    auto store = allfold::TcpStore::connect(environment, deadline);
    allfold::StoreGather gather(store, environment.job, where, environment.rank, environment.world_size, deadline);
    allfold::Meeting meeting("create", environment.rank, environment.world_size, deadline, gather);
    const auto ranks = meeting.all_gather("identities", allfold::host_identity());
    allfold::UcxLink link(meeting, ranks, {});

    float x = static_cast<float>(environment.rank + 1);
    const allfold::Reduction<allfold::Sum, float> sum{allfold::sum};
    allfold::UcxEndpoint e(link, {.operation = "all_reduce"});
    auto task =
        allfold::message::all_reduce(e, allfold::AllReduceMotion::gathered, allfold::host_reduction(sum), &x, &x, 1);
    e.drive(task, deadline);
    if (x != 3.0f) throw std::runtime_error("the sum of the ranks' numbers is wrong");
  });
  std::printf("allfold %d.%d.%d: the sum is right\n", allfold::version_major, allfold::version_minor,
              allfold::version_patch);
}
