#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A host-only program needs no header of CUDA, UCX or MPI: reads all that its umbrellas include, directly or not.

    no_cuda.py COMPILER INCLUDE_DIR
"""

import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
from scripting import Failure, main, must

FOREIGN = re.compile(
    r"(^|/)((cuda|cub|thrust|nv|ucp|uct|ucs)/|(cuda|cub|curand|nvml|nvtx|nccl|mpi|cooperative_groups)[^/]*$)"
)


def included(compiler, directory, flags, text):
    """Every file that a program with this text includes, as the compiler names it."""
    source = Path(directory) / "program.cpp"
    source.write_text(text, encoding="utf-8")
    rule = must([compiler, "-std=c++20", *flags, "-M", "-MT", "target", source])
    return rule.replace("\\\n", " ").split()[1:]


def foreign(files, own):
    """Those of `files` that a host-only machine may lack. Of our own headers, the .cuh; of others, by their names."""
    own = str(Path(own).resolve()) + "/"
    found = []
    for file in files:
        path = str(Path(file).resolve())
        if path.startswith(own):
            if path.endswith(".cuh"):
                found.append(path)
        elif FOREIGN.search("/".join(path.split("/")[-3:])):
            found.append(path)
    return found


def body():
    compiler, include_dir = sys.argv[1:]
    program = "#include <allfold/allfold.hpp>\n#include <allfold/messages.hpp>\n#include <allfold/spawn.hpp>\n"
    with tempfile.TemporaryDirectory() as directory:
        # First that the search can find something: a header of that name, somewhere below the program.
        (Path(directory) / "local").mkdir()
        (Path(directory) / "local" / "cuda_runtime.h").write_text("", encoding="utf-8")
        control = included(compiler, directory, [f"-I{directory}/local"], "#include <cuda_runtime.h>\n")
        if len(foreign(control, include_dir)) != 1:
            raise Failure(f"the control's cuda_runtime.h was not found among {control}")
        files = included(compiler, directory, [f"-I{include_dir}"], program)
    if not any(file.endswith("allfold/allfold.hpp") for file in files):
        raise Failure(f"the compiler does not name allfold.hpp among {files}")
    found = foreign(files, include_dir)
    if found:
        raise Failure("a host-only program includes " + ", ".join(found))
    print(f"{len(files)} files, none of CUDA, UCX or MPI")


main(body)
