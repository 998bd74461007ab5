#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the tables of docs/scaling.md anew, or says whether they still are what the simulator says.

    tables.py ALLFOLD_SCALE PAGE            writes them
    tables.py --check ALLFOLD_SCALE PAGE    exits with 1 where one differs; looks at worlds of up to 64 ranks

A table stands between `<!-- table: KIND ARGUMENTS -->` and `<!-- end -->`:

    times COLLECTIVE BYTES RANKS       us, the fastest in bold; COLLECTIVE may be several, with commas
    messages COLLECTIVE BYTES RANKS    what all ranks send together, and the most that one sends
    measured CSV RANKS BYTES           us a call, and in parentheses what is foretold; CSV lies in bench/results
    errors CSV RANKS                   foretold over measured, per kind of collective and range of sizes
    losses CSV RANKS                   the measured time of what the thresholds choose, over the fastest measured
"""

import csv
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"(<!-- table: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
MOST_CHECKED_RANKS = 64
# As allfold_scale_ucx runs them: back to back, on the cores of the machine that was measured.
BACK_TO_BACK = ["--calls", "8", "--cores", "2"]
RANGES = [(0, 4096, "to 4 KiB"), (4097, 65536, "8 to 64 KiB"), (65537, 262144, "128 and 256 KiB"),
          (262145, 1 << 40, "from 1 MiB")]
# Their root is ahead of the others, or behind, so that several calls are under way at once.
ONE_WAY = {"reduce", "gather", "broadcast", "scatter"}


def size_text(number):
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= unit and number % unit == 0:
            return f"{number // unit} {name}"
    return f"{number} B"


def time_text(us):
    return f"{us:.1f}" if us < 99.95 else f"{us:.0f}"


def rows_of(program, *options):
    done = subprocess.run([program, "--csv", *options], stdout=subprocess.PIPE, text=True, check=True)
    return list(csv.DictReader(done.stdout.splitlines()))


def numbers(text):
    return [int(word) for word in text.split(",")]


def grid(head, lines):
    text = "| " + " | ".join([""] + head).strip() + " |\n" + "|---" * (len(head) + 1) + "|\n"
    return text + "".join("| " + " | ".join(line) + " |\n" for line in lines)


class Page:
    def __init__(self, program, results, most_ranks):
        self.program = program
        self.results = results
        self.most_ranks = most_ranks

    def ranks(self, text):
        return [n for n in numbers(text) if n <= self.most_ranks]

    def simulated(self, collectives, size, ranks):
        names = collectives.split(",")
        rows = {}
        for name in names:
            wanted = ",".join(map(str, ranks))
            for row in rows_of(self.program, "--collective", name, "--bytes", size, "--ranks", wanted):
                algorithm = row["algorithm"] if len(names) == 1 else f'{name} {row["algorithm"]}'
                rows.setdefault(algorithm, {})[int(row["ranks"])] = row
        return rows

    def times(self, collectives, size, ranks_text):
        ranks = self.ranks(ranks_text)
        rows = self.simulated(collectives, size, ranks)
        # Of one collective alone: several are no rivals.
        alone = "," not in collectives
        least = {n: min(float(of[n]["us"]) for of in rows.values() if n in of) for n in ranks}
        lines = []
        for algorithm, of in rows.items():
            line = [algorithm]
            for n in ranks:
                text = time_text(float(of[n]["us"])) if n in of else ""
                line.append(f"**{text}**" if alone and text and text == time_text(least[n]) else text)
            lines.append(line)
        return grid([str(n) for n in ranks], lines)

    def messages(self, collectives, size, ranks_text):
        ranks = self.ranks(ranks_text)
        lines = []
        for algorithm, of in self.simulated(collectives, size, ranks).items():
            line = [algorithm]
            for n in ranks:
                line.append(f'{of[n]["messages"]} ({of[n]["max_messages_of_rank"]})' if n in of else "")
            lines.append(line)
        return grid([str(n) for n in ranks], lines)

    def compared(self, name, ranks, sizes=None):
        """{(collective, algorithm): {bytes: (measured, foretold, chosen)}}, in the order of the file."""
        with open(self.results / name, newline="", encoding="utf-8") as file:
            measured = [row for row in csv.DictReader(file) if int(row["ranks"]) == ranks]
        wanted = sizes or sorted({int(row["bytes"]) for row in measured})
        foretold = {}
        for row in rows_of(self.program, *BACK_TO_BACK, "--ranks", str(ranks), "--bytes", ",".join(map(str, wanted))):
            cell = float(row["us"]), row["chosen"] == "1"
            foretold[row["collective"], row["algorithm"], int(row["bytes"])] = cell
        cells = {}
        for row in measured:
            key = row["collective"], row["algorithm"]
            if int(row["bytes"]) in wanted:
                cells.setdefault(key, {})[int(row["bytes"])] = (
                    float(row["median_us"]), *foretold[(*key, int(row["bytes"]))])
        return cells

    def measured(self, name, ranks, sizes_text):
        sizes = numbers(sizes_text)
        lines = []
        for key, of in self.compared(name, int(ranks), sizes).items():
            cells = [f"{time_text(of[n][0])} ({time_text(of[n][1])})" if n in of else "" for n in sizes]
            lines.append([" ".join(key), *cells])
        return grid([size_text(n) for n in sizes], lines)

    def errors(self, name, ranks_text):
        ratios = {}
        for ranks in numbers(ranks_text):
            for (collective, _), of in self.compared(name, ranks).items():
                kind = "to or from one rank" if collective in ONE_WAY else "all to all ranks"
                for size, (us, foretold, _) in of.items():
                    where = next(text for low, high, text in RANGES if low <= size <= high)
                    ratios.setdefault((ranks, kind), {}).setdefault(where, []).append(foretold / us)
        lines = []
        for (ranks, kind), of in ratios.items():
            line = [f"{ranks} ranks, {kind}"]
            for _, _, where in RANGES:
                found = of.get(where, [])
                if not found:
                    line.append("")
                    continue
                off = math.exp(statistics.mean(abs(math.log(r)) for r in found))
                line.append(f"{off:.2f} ({min(found):.2f} to {max(found):.2f})")
            lines.append(line)
        return grid([where for _, _, where in RANGES], lines)

    def losses(self, name, ranks_text):
        lines = {}
        for column, ranks in enumerate(numbers(ranks_text)):
            least, chosen = {}, {}
            for (collective, _), of in self.compared(name, ranks).items():
                for size, (us, _, is_chosen) in of.items():
                    least[collective, size] = min(us, least.get((collective, size), us))
                    if is_chosen:
                        chosen[collective, size] = us
            for collective in dict.fromkeys(key[0] for key in chosen):
                lost = [(us / least[key], key[1]) for key, us in chosen.items() if key[0] == collective]
                mean = math.exp(statistics.mean(math.log(ratio) for ratio, _ in lost))
                most, size = max(lost)
                text = f"{mean:.2f} ({most:.2f} at {size_text(size)})" if most >= 1.005 else "1.00"
                lines.setdefault(collective, [collective] + [""] * len(numbers(ranks_text)))[column + 1] = text
        return grid([f"{n} ranks" for n in numbers(ranks_text)], lines.values())

    def table(self, words):
        kinds = {"times": self.times, "messages": self.messages, "measured": self.measured, "errors": self.errors,
                 "losses": self.losses}
        if words[0] not in kinds:
            sys.exit(f"tables.py: there is no table \"{words[0]}\"; expected {', '.join(kinds)}")
        return kinds[words[0]](*words[1:])


def columns(table, count):
    """The first columns of a table; `count` of all."""
    return ["|".join(line.split("|")[:count]) for line in table.splitlines()]


def main(arguments):
    check = arguments[:1] == ["--check"]
    if len(arguments) != 2 + check:
        sys.exit(__doc__)
    program, path = arguments[-2], Path(arguments[-1])
    results = Path(__file__).resolve().parent.parent / "results"
    page = Page(program, results, MOST_CHECKED_RANKS if check else 1 << 30)
    text = path.read_text(encoding="utf-8")
    stale = []

    def remade(match):
        made = page.table(match[2].split())
        if not check:
            return match[1] + made + match[4]
        shown = made.splitlines()[0].count("|")
        if columns(match[3], shown) != columns(made, shown):
            stale.append(match[2])
        return match[0]

    new, count = BLOCK.subn(remade, text)
    if count == 0:
        sys.exit(f"tables.py: {path} has no tables; expected <!-- table: .. --> and <!-- end -->")
    if stale:
        sys.exit("".join(f"tables.py: the table \"{words}\" is no longer what the simulator says\n" for words in stale)
                 + f"try bench/scale/tables.py {program} {path}")
    if not check:
        path.write_text(new, encoding="utf-8")
    print(f"{count} tables")


if __name__ == "__main__":
    main(sys.argv[1:])
