#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The example train_digits gives the same weights over UCX as over shared memory and as in one process.

    train_digits.py same_bits|two_hosts PROGRAM
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
from hand_started import run_ranks, variables
from scripting import Failure, main, must
from two_hosts import ADDRESSES, SecondHost, enter

IN_RANK_ORDER = ("gathered", "bruck", "direct")
EPOCHS = ("--epochs", "12")


def weights(output):
    """The hash of the trained weights, for each row of the table."""
    rows = {}
    for line in output.splitlines():
        row = re.match(r"(\S.*?) +\d+\.\d\d% +\d+\.\d\d  ([0-9a-f]{16})  same bits ", line)
        if row:
            rows[row[1]] = row[2]
    return rows


def expect_same(ucx, shm):
    """All that fold in rank order have the bits of one process, on either transport."""
    one = shm["one rank"]
    for transport, rows, wanted in (("shm", shm, ("one_shot", "two_shot")), ("ucx", ucx, IN_RANK_ORDER)):
        for row in ("one rank", *wanted):
            if rows.get(row) != one:
                raise Failure(f"over {transport} the weights of {row} are {rows.get(row)}; expected {one}")


def same_bits(program):
    for ranks in (2, 3):
        shm, ucx = (
            weights(must([program, "--ranks", ranks, *EPOCHS, "--transport", transport], timeout=100))
            for transport in ("shm", "ucx")
        )
        expect_same(ucx, shm)
        print(f"{ranks} ranks: {shm['one rank']}")


def two_hosts(program):
    enter()
    host = SecondHost()
    shm = weights(must([program, "--ranks", 2, *EPOCHS, "--transport", "shm"], timeout=100))
    command = [program, *EPOCHS, "--transport", "ucx"]
    # The hosts are one machine: UCX would find its memory, and leave the network alone.
    network = {"UCX_TLS": "tcp", "UCX_NET_DEVICES": "eth0"}
    ranks = [{**variables(rank, 2, ADDRESSES[0], 29500), **network} for rank in range(2)]
    outputs = run_ranks([command, host.prefix() + command], ranks, 100)
    host.close()
    ucx = weights(outputs[0])
    expect_same(ucx, shm)
    print(f"{ADDRESSES[0]} and {ADDRESSES[1]}: {ucx['one rank']}")


def body():
    cases = {"same_bits": same_bits, "two_hosts": two_hosts}
    if len(sys.argv) != 3 or sys.argv[1] not in cases:
        sys.exit(__doc__)
    cases[sys.argv[1]](sys.argv[2])


if __name__ == "__main__":
    main(body)
