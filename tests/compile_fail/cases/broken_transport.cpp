// expect: allfold: this transport lacks a member that allfold::transport_policy asks for
// SPDX-License-Identifier: Apache-2.0
#include <allfold/allfold.hpp>

struct Mine {
  using policy_category = allfold::transport_tag;
};

#ifdef ALLFOLD_POSITIVE_CONTROL
using Comm = allfold::Communicator<allfold::ShmTransport>;
#else
using Comm = allfold::Communicator<Mine>;
#endif

int main() { return sizeof(Comm) == 0; }
