// expect: allfold: create takes an Environment, then Options, MessageOptions and objects of the communicator's own policy types
// SPDX-License-Identifier: Apache-2.0
#include <allfold/ucx.hpp>

int main() {
#ifdef ALLFOLD_POSITIVE_CONTROL
  auto comm = allfold::Communicator<allfold::UcxTransport>::create(allfold::environment(), allfold::MessageOptions{});
#else
  auto comm = allfold::Communicator<allfold::UcxTransport>::create(allfold::environment(), allfold::CallOptions{});
#endif
}
