#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every whole program in README.md is an example's: its lines stand there, in that order. The documents name every
variable that the library reads, docs/ucx.md those of messages and those of UCX that it sets."""

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

    docs = (SOURCE_DIR / "docs/ucx.md").read_text(encoding="utf-8")
    for header, pattern in (("policy/message_options.hpp", r'"(ALLFOLD_[A-Z_]+)"'),
                            ("transport/ucx_context.hpp", r'[sg]etenv\("(UCX_[A-Z_]+)"')):  # fmt: skip
        text = (SOURCE_DIR / "include/allfold" / header).read_text(encoding="utf-8")
        variables = set(re.findall(pattern, text))
        if not variables:
            raise Failure(f"{header} names no variable")
        for variable in sorted(variables):
            if f"`{variable}`" not in docs:
                raise Failure(f"docs/ucx.md does not name {variable}, which is in {header}")
        print(f"docs/ucx.md: {len(variables)} variables of {header}")

    documents = "".join(path.read_text(encoding="utf-8") for path in (SOURCE_DIR / "docs").glob("*.md"))
    headers = [path for path in (SOURCE_DIR / "include").rglob("*") if path.suffix in (".hpp", ".cuh")]
    read = {v for path in headers for v in re.findall(r'"(ALLFOLD_[A-Z_]+)"', path.read_text(encoding="utf-8"))}
    unnamed = sorted(variable for variable in read if f"`{variable}" not in documents)
    if len(read) < 10 or unnamed:
        raise Failure(f"of {len(read)} variables the documents do not name {unnamed}")
    print(f"docs: {len(read)} variables")


if __name__ == "__main__":
    main(body)
