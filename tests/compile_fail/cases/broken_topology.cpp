// expect: allfold: this topology lacks a member that allfold::topology_policy asks for
// SPDX-License-Identifier: Apache-2.0
#include <allfold/allfold.hpp>

struct Mine {
  using policy_category = allfold::topology_tag;
#ifdef ALLFOLD_POSITIVE_CONTROL
  allfold::LinkMatrix links(std::span<const allfold::Identity> ranks) {
    return allfold::fully_connected_links(static_cast<int>(ranks.size()));
  }
#endif
};

using Comm = allfold::Communicator<Mine>;

int main() { return sizeof(Comm) == 0; }
