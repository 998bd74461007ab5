// expect: allfold: this store lacks a member that allfold::store_policy asks for
// SPDX-License-Identifier: Apache-2.0
#include <allfold/allfold.hpp>

struct Mine {
  using policy_category = allfold::store_tag;
};

#ifdef ALLFOLD_POSITIVE_CONTROL
using Comm = allfold::Communicator<allfold::HashStore>;
#else
using Comm = allfold::Communicator<Mine>;
#endif

int main() { return sizeof(Comm) == 0; }
