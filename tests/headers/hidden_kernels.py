#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A library's kernels, and what takes or gives one, are hidden: a program and its libraries may each have a CUDA runtime
of its own, which knows its own kernels alone. Reads the object of one_all_reduce.cu.

    hidden_kernels.py READELF OBJECT
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
from scripting import Failure, main, must

OURS = re.compile(
    r"^[^(]*(CudaFunctions::(find|look_up)|CudaChannel::(enqueue|named)|launching::|folding::|launch_one_block|_kernel<)"
)
SURELY = ("CudaFunctions::look_up", "CudaChannel::enqueue", "all_reduce_kernel<", "barrier_kernel<")


def functions(listing):
    """(whether others may link to it, demangled name)"""
    for line in listing.splitlines():
        fields = line.split(None, 7)
        if len(fields) == 8 and fields[3] == "FUNC" and fields[6] != "UND":
            yield fields[4] != "LOCAL" and fields[5] == "DEFAULT", fields[7]


def body():
    readelf, program = sys.argv[1:]
    listing = must([readelf, "-sW", "--demangle", program])
    found = [(is_open, name) for is_open, name in functions(listing) if OURS.search(name)]
    for part in SURELY:
        if not any(part in name for _, name in found):
            raise Failure(f"{program} has no {part}; expected one, to look at")
    shared = [name for is_open, name in found if is_open]
    if shared:
        raise Failure("mark with ALLFOLD_HIDDEN:\n  " + "\n  ".join(shared))
    print(f"{len(found)} functions that have to do with kernels, hidden or local")


main(body)
