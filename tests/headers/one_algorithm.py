#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A program that fixes its algorithm contains that one alone: counts the algorithms' templates in object files.

    one_algorithm.py COMPILER NM INCLUDE_DIR one_algorithm.cpp

The program is compiled with -DALLFOLD_TEST_ALGORITHM=<name> for one algorithm, and without it for the control, which
chooses at run time and has them all.
"""

import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
from scripting import Failure, main, must

ALGORITHMS = ["one_shot", "one_shot_packet", "two_shot", "two_shot_packet", "hybrid_cube_mesh"]


def instantiated(compiler, nm, include_dir, source, flags):
    """The algorithms of which the object file has an instance; -O0 keeps each as a symbol."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "program.o"
        must([compiler, "-std=c++20", "-O0", f"-I{include_dir}", *flags, "-c", source, "-o", program])
        symbols = must([nm, "-C", "--defined-only", program])
    return {name for name in ALGORITHMS if re.search(rf"\b{name}<", symbols)}


def body():
    compiler, nm, include_dir, source = sys.argv[1:]
    control = instantiated(compiler, nm, include_dir, source, [])
    if control != set(ALGORITHMS):
        raise Failure(f"the control lacks {sorted(set(ALGORITHMS) - control)}, so this test would see nothing")
    for name in ALGORITHMS:
        found = instantiated(compiler, nm, include_dir, source, [f"-DALLFOLD_TEST_ALGORITHM={name}"])
        print(f"{name}: {', '.join(sorted(found)) or 'none'}")
        if found != {name}:
            raise Failure(f"a program that fixes {name} contains {sorted(found)}")


main(body)
