#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An example does what it prints, with two processes that are started by hand.

    by_hand.py hello_hosts|multi_node PROGRAM
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
from hand_started import free_port, run_ranks, variables
from scripting import Failure, main

# What rank 0 prints; other ranks print nothing.
WANTED = {
    "hello_hosts": [r"2 ranks: the sum is 3"],
    "multi_node": [
        r"2 ranks: the sum is 3, and a message came from rank 1",
        r"8 layers were summed while others were computed",
        r"allfold: rank 0/2: barrier: rank 1 did not arrive; expected it within 300 ms; .+",
    ],
}


def body():
    if len(sys.argv) != 3 or sys.argv[1] not in WANTED:
        sys.exit(__doc__)
    wanted = WANTED[sys.argv[1]]
    port = free_port()
    ranks = [variables(rank, 2, "127.0.0.1", port, local_world_size=2) for rank in range(2)]
    outputs = run_ranks([[sys.argv[2]]] * 2, ranks, 60)
    lines = outputs[0].splitlines()
    if len(lines) != len(wanted) or not all(re.fullmatch(w, line) for w, line in zip(wanted, lines)):
        raise Failure("rank 0 printed:\n" + outputs[0] + "expected lines like:\n" + "\n".join(wanted))
    if outputs[1]:
        raise Failure("rank 1 printed, and was not expected to:\n" + outputs[1])
    print(outputs[0], end="")


if __name__ == "__main__":
    main(body)
