#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every whole program in README.md is an example's: its lines stand there, in that order."""

import re
import sys
from pathlib import Path

SOURCE_DIR = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(SOURCE_DIR / "tests/support"))
from scripting import Failure, main


def stands_in(program, text):
    rest = iter(text.splitlines())
    return all(line in rest for line in program.splitlines())


def body():
    readme = (SOURCE_DIR / "README.md").read_text(encoding="utf-8")
    programs = [block for block in re.findall(r"```cpp\n(.*?)```", readme, re.DOTALL) if "int main()" in block]
    if len(programs) < 2:
        raise Failure(f"README.md has {len(programs)} whole programs; expected 2 or more")
    examples = {path.name: path.read_text(encoding="utf-8") for path in (SOURCE_DIR / "examples").glob("*.cpp")}
    for program in programs:
        names = [name for name, text in examples.items() if stands_in(program, text)]
        if not names:
            raise Failure(f"no example has this program of README.md:\n{program}")
        print(f"{names[0]}: {len(program.splitlines())} lines of README.md")


if __name__ == "__main__":
    main(body)
