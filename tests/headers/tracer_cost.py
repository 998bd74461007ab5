#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A tracer that is not chosen costs nothing: looks for traces of tracing in object files.

    tracer_cost.py COMPILER OBJDUMP INCLUDE_DIR tracer_cost.cpp

The program is compiled with NullTracer, which must leave no event, no text of one, and no reading of the clock around
a call; and with JsonTracer as the control, which must leave them all, or this test would see nothing.
"""

import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
from scripting import Failure, main, must

# Functions that deal with events, and types of tracers; texts that a log consists of.
TRACING = re.compile(r"\b(TraceEvent|trace_event|begin_trace|end_trace|Json\w+)\b")
TEXTS = [b"in_splits", b"comms log"]
CLOCK = "std::chrono::_V2::steady_clock::now()"
# What runs one call: the one place that knows the tracer.
RUN = re.compile(r"\bBasicCommunicator<.*>::run<")

FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")


class Object:
    """One object file: its functions, each with the lines of its code, and its bytes."""

    def __init__(self, compiler, objdump, include_dir, source, tracer, level):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "program.o"
            flags = ["-std=c++20", level, f"-I{include_dir}", f"-DALLFOLD_TEST_TRACER={tracer}"]
            must([compiler, *flags, "-c", source, "-o", path])
            code = must([objdump, "--disassemble", "--reloc", "--demangle", path])
            symbols = must([objdump, "--syms", "--demangle", path])
            self.bytes = path.read_bytes()
        self.functions = {}
        name = None
        for line in code.splitlines():
            match = FUNCTION.match(line)
            if match:
                name = match.group(1)
            elif name is not None:
                self.functions.setdefault(name, []).append(line)
        self.tracing = sorted({match.group(1) for match in TRACING.finditer(symbols)})
        self.texts = [text.decode() for text in TEXTS if text in self.bytes]

    def readings_of_the_clock(self):
        """How many instructions call it, in all functions."""
        return sum(CLOCK in line for lines in self.functions.values() for line in lines if "R_" in line)

    def calls_of_runs(self):
        """Whatever the functions that run a call refer to."""
        runs = [name for name in self.functions if RUN.search(name)]
        if not runs:
            raise Failure("the object file has no BasicCommunicator::run; if it has another name now, say so here")
        return "\n".join(line for name in runs for line in self.functions[name])


def body():
    compiler, objdump, include_dir, source = sys.argv[1:]

    def compiled(tracer, level):
        return Object(compiler, objdump, include_dir, source, tracer, level)

    # Unoptimized, every function is there under its name.
    null, json = compiled("NullTracer", "-O0"), compiled("JsonTracer", "-O0")
    if CLOCK in null.calls_of_runs() or TRACING.search(null.calls_of_runs()):
        raise Failure("with NullTracer, a call reads the clock, or makes an event")
    if not {"begin_trace", "end_trace", "trace_event"} <= set(TRACING.findall(json.calls_of_runs())):
        raise Failure("with JsonTracer, a call makes no event, so this test would see none")
    for name in ("begin_trace", "end_trace"):
        lines = [line for function, of in json.functions.items() if f"{name}<" in function for line in of]
        if not any(CLOCK in line for line in lines):
            raise Failure(f"with JsonTracer, {name} reads no clock, so this test would see no reading")

    for level, null, json in (("-O0", null, json), ("-O2", compiled("NullTracer", "-O2"), compiled("JsonTracer", "-O2"))):
        print(
            f"{level}: NullTracer {len(null.bytes)} B, {null.readings_of_the_clock()} readings of the clock, "
            f"{null.tracing + null.texts or 'no tracing'}; JsonTracer {len(json.bytes)} B, "
            f"{json.readings_of_the_clock()} readings, {json.tracing + json.texts}"
        )
        if null.tracing or null.texts:
            raise Failure(f"with NullTracer, the object file has {null.tracing + null.texts}")
        if "JsonLog" not in json.tracing or len(json.texts) != len(TEXTS):
            raise Failure(f"with JsonTracer, the object file has only {json.tracing + json.texts}")
        if json.readings_of_the_clock() <= null.readings_of_the_clock():
            raise Failure("with JsonTracer, the clock is read no more often, so this test would see no reading")


main(body)
