#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What allfold costs a program that includes it: compiles small programs and holds their times to limits.

    compile_time.py COMPILER INCLUDE_DIR --include-limit S --program-limit S --optimized-limit S --unit-s S

Times are seconds of CPU, the best of three, so that a busy machine disturbs them little. The limits are meant for a
machine that compiles the calibration program, which includes the standard library alone, in --unit-s; on a slower one
they grow in proportion, on a faster one they stay.
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
from scripting import Failure, main, must

CALIBRATION = """
#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>
int main() {
  std::map<std::string, std::vector<int>> numbers;
  for (int i = 0; i < 100; ++i) numbers[std::to_string(i)].push_back(i);
  auto shared = std::make_shared<std::vector<std::string>>();
  for (const auto& [name, values] : numbers) shared->push_back(name);
  std::sort(shared->begin(), shared->end());
  return std::chrono::steady_clock::now().time_since_epoch().count() == 0 ? static_cast<int>(shared->size()) : 0;
}
"""

INCLUDE = """
#include <allfold/allfold.hpp>
int main() {}
"""

PROGRAM = """
#include <allfold/allfold.hpp>
int main() {
  auto comm = allfold::Communicator<>::create(allfold::environment());
  auto x = comm.allocate<float>(1024);
  comm.all_reduce(x.span(), allfold::sum);
}
"""


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def best_of_three(command):
    times = []
    for _ in range(3):
        before = cpu_seconds()
        must(command, env={"CCACHE_DISABLE": "1"})
        times.append(cpu_seconds() - before)
    return min(times)


def body():
    parser = argparse.ArgumentParser()
    parser.add_argument("compiler")
    parser.add_argument("include_dir")
    parser.add_argument("--include-limit", type=float, required=True)
    parser.add_argument("--program-limit", type=float, required=True)
    parser.add_argument("--optimized-limit", type=float, required=True)
    parser.add_argument("--unit-s", type=float, required=True)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as directory:

        def measure(text, *flags):
            source = Path(directory) / "program.cpp"
            source.write_text(text, encoding="utf-8")
            return best_of_three(
                [arguments.compiler, "-std=c++20", f"-I{arguments.include_dir}", *flags, source, "-o", "/dev/null"]
            )

        unit = measure(CALIBRATION, "-c", "-O2")
        scale = max(1.0, unit / arguments.unit_s)
        rows = [
            ("allfold.hpp alone, -fsyntax-only", measure(INCLUDE, "-fsyntax-only"), arguments.include_limit),
            ("one all_reduce, -O0", measure(PROGRAM, "-c", "-O0"), arguments.program_limit),
            ("one all_reduce, -O2", measure(PROGRAM, "-c", "-O2"), arguments.optimized_limit),
        ]
    print(f"calibration, -O2: {unit:.2f} s, so the limits are multiplied by {scale:.2f}")
    late = []
    for name, seconds, limit in rows:
        limit *= scale
        print(f"{name:36} {seconds:6.2f} s of at most {limit:5.2f} s")
        if seconds > limit:
            late.append(f"{name}: {seconds:.2f} s; at most {limit:.2f} s")
    if late:
        raise Failure("; ".join(late))


main(body)
