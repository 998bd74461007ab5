// expect: allfold: this selector lacks a member that allfold::selector_policy asks for
// SPDX-License-Identifier: Apache-2.0
#include <allfold/allfold.hpp>

struct Mine {
  using policy_category = allfold::selector_tag;
#ifdef ALLFOLD_POSITIVE_CONTROL
  static constexpr allfold::AlgorithmSet candidates = allfold::AlgorithmSet::all();
  allfold::Algorithm select(const allfold::SelectionQuery&) const { return allfold::Algorithm::none; }
#endif
};

using Comm = allfold::Communicator<Mine>;

int main() { return sizeof(Comm) == 0; }
