// expect: allfold: Communicator takes a store, a transport, a topology, a selector and a tracer, and this type is none of them
// SPDX-License-Identifier: Apache-2.0
#include <allfold/allfold.hpp>

struct Stranger {};

#ifdef ALLFOLD_POSITIVE_CONTROL
using Comm = allfold::Communicator<allfold::FileStore>;
#else
using Comm = allfold::Communicator<Stranger>;
#endif

int main() { return sizeof(Comm) == 0; }
