// expect: allfold: this transport moves messages, and the communicator that does is not included
// SPDX-License-Identifier: Apache-2.0
#include <allfold/allfold.hpp>
#include <allfold/transport/ucx.hpp>
#ifdef ALLFOLD_POSITIVE_CONTROL
#include <allfold/ucx.hpp>
#endif

using Comm = allfold::Communicator<allfold::UcxTransport>;

int main() { return sizeof(Comm) == 0; }
