// expect: allfold: this selector chooses motions of messages, and the transport shares memory
// SPDX-License-Identifier: Apache-2.0
#include <allfold/allfold.hpp>
#include <allfold/select/message_thresholds.hpp>

#ifdef ALLFOLD_POSITIVE_CONTROL
using Comm = allfold::Communicator<allfold::ShmTransport, allfold::ThresholdSelector>;
#else
using Comm = allfold::Communicator<allfold::ShmTransport, allfold::MessageThresholds>;
#endif

int main() { return sizeof(Comm) == 0; }
