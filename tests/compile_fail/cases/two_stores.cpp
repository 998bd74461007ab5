// expect: allfold: Communicator takes at most one policy of each category
// SPDX-License-Identifier: Apache-2.0
#include <allfold/allfold.hpp>

#ifdef ALLFOLD_POSITIVE_CONTROL
using Comm = allfold::Communicator<allfold::FileStore, allfold::ShmTransport>;
#else
using Comm = allfold::Communicator<allfold::FileStore, allfold::TcpStore>;
#endif

int main() { return sizeof(Comm) == 0; }
