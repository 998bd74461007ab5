#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles a program that must not compile, and its corrected form, which must.

    compile_fail.py INCLUDE_DIR CASE.cpp COMPILER [flags]

A case is one file whose first line is `// expect: <regular expression>`. It has to be refused with an error that
matches, in one line of the compiler's that says `error:`; with -DALLFOLD_POSITIVE_CONTROL it has to compile, so that
the refusal is known to come from the one mistake and not from a missing header.
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
from scripting import Failure, main, run, skip

EXPECT = "// expect: "
CONTROL = "ALLFOLD_POSITIVE_CONTROL"


def is_nvcc(compiler):
    return Path(compiler).name.startswith("nvcc")


def ucx_flags(compiler, flags, text):
    """What a case that includes UCX's headers needs; skips where they are not there."""
    if not re.search(r"^#include <allfold/(transport/)?ucx", text, re.MULTILINE):
        return []
    found = run(["pkg-config", "--cflags", "ucx"]) if shutil.which("pkg-config") else (1, "")
    more = found[1].split() if found[0] == 0 else []
    with tempfile.TemporaryDirectory() as directory:
        probe = Path(directory) / "probe.cpp"
        probe.write_text("#include <ucp/api/ucp.h>\n", encoding="utf-8")
        if run([compiler, *flags, *more, "-std=c++20", "-fsyntax-only", probe])[0] != 0:
            skip("UCX's headers were not found (Debian and Ubuntu: libucx-dev)")
    return more


def compilation(compiler, flags, include_dir, case, directory):
    """The command that compiles `case` and keeps nothing of it; with nvcc as far as device code, which tells the same
    errors in a third of the time."""
    command = [compiler, *flags, "-std=c++20", f"-I{include_dir}"]
    if is_nvcc(compiler):
        return command + ["-x", "cu", "-ptx", case, "-o", Path(directory) / "case.ptx"]
    return command + ["-fsyntax-only", case]


def check(include_dir, case, compiler, flags):
    """Raises Failure unless the case is refused as it says and its control compiles; returns the error's line."""
    text = Path(case).read_text(encoding="utf-8")
    first_line = text.split("\n", 1)[0]
    if not first_line.startswith(EXPECT) or not first_line[len(EXPECT) :].strip():
        raise Failure(f"{case}:1: the first line has to be `{EXPECT}<regular expression>`")
    pattern = re.compile(first_line[len(EXPECT) :].strip())
    if not re.search(rf"^[ \t]*#[ \t]*(ifdef|ifndef|if|elif)\b.*\b{CONTROL}\b", text, re.MULTILINE):
        raise Failure(f"{case}: there is no `#ifdef {CONTROL}`, so no corrected program stands beside the mistake")

    flags = [*flags, *ucx_flags(compiler, flags, text)]
    with tempfile.TemporaryDirectory() as directory:
        command = compilation(compiler, flags, include_dir, case, directory)
        status, output = run(command + [f"-D{CONTROL}"])
        if status != 0:
            raise Failure(f"{case}: the corrected program does not compile:\n{output}")
        status, output = run(command)
    if status == 0:
        raise Failure(f"{case}: compiles; expected an error that matches: {pattern.pattern}")
    errors = [line for line in output.splitlines() if re.search(r"\berror\b.*:", line)]
    matches = [line for line in errors if pattern.search(line)]
    if not matches:
        raise Failure(f"{case}: no error matches: {pattern.pattern}\n{output}")
    return matches[0], len(errors)


def body():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    include_dir, case, compiler, *flags = sys.argv[1:]
    os.environ["CCACHE_DISABLE"] = "1"
    line, count = check(include_dir, case, compiler, flags)
    print(f"refused as expected, errors: {count}\n{line.strip()}")


if __name__ == "__main__":
    main(body)
