// expect: allfold: this selector chooses among algorithms of symmetric memory, and the transport moves messages
// SPDX-License-Identifier: Apache-2.0
#include <allfold/ucx.hpp>

#ifdef ALLFOLD_POSITIVE_CONTROL
using Comm = allfold::Communicator<allfold::UcxTransport, allfold::MessageThresholds>;
#else
using Comm = allfold::Communicator<allfold::UcxTransport, allfold::ThresholdSelector>;
#endif

int main() { return sizeof(Comm) == 0; }
