// expect: allfold: this tracer lacks a member that allfold::tracer_policy asks for
// SPDX-License-Identifier: Apache-2.0
#include <allfold/allfold.hpp>

struct Mine {
  using policy_category = allfold::tracer_tag;
#ifdef ALLFOLD_POSITIVE_CONTROL
  static constexpr bool enabled = true;
  void record(const allfold::TraceEvent&) {}
#endif
};

using Comm = allfold::Communicator<Mine>;

int main() { return sizeof(Comm) == 0; }
