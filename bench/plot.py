#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plots CSV files of allfold_perf as SVG: time of one call against the size of the message, both logarithmic.

One curve for each kind of buffers and algorithm of the CSV, and one for each peer; where there are several collectives, a
picture of each. Needs nothing but Python.

    plot.py results/host.csv                     # writes results/host.svg
    plot.py results/host.csv -o out.svg --y busbw_gbs
"""

import argparse
import csv
import math
import pathlib
import sys
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 900, 540
LEFT, RIGHT, TOP, BOTTOM = 80, 230, 50, 60
COLORS = ["#0b6e99", "#d1495b", "#2e8b57", "#8a4fbe", "#c77d0a", "#555555", "#1aa6a6", "#a0522d", "#e377c2", "#7f9f00"]
AXES = {"time_us": "time of one call, microseconds", "algbw_gbs": "algorithm bandwidth, GB/s",
        "busbw_gbs": "bus bandwidth, GB/s"}
OWN_TIMES = ("time_us", "min_us", "max_us", "cpu_us", "tcp_us")
PEERS = {"nccl": "NCCL", "nccl_symm": "NCCL symmetric"}


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "time_us" not in rows[0]:
        sys.exit(f"plot.py: {path} holds no rows of allfold_perf --csv")
    return rows


def value(row, us, axis):
    """What `axis` says of a call of this row's size that takes `us`."""
    if axis == "time_us":
        return us
    algbw = int(row["bytes"]) / us * 1e-3
    others = int(row["ranks"]) - 1
    moved = {"all_reduce": 2 * others / (others + 1), "reduce_scatter": others / (others + 1), "broadcast": 1}
    return algbw if axis == "algbw_gbs" else algbw * moved.get(collective(row), others)


def collective(row):
    return row.get("collective", "all_reduce")


def mode_text(row):
    """How calls were made, where there is more than one way: on GPUs."""
    return f", {row['mode']}" if "mode" in row else ""


def curves(rows, axis):
    """{label: [(bytes, y)]}, allfold's first. A selector's choices make one curve; each mode has curves of its own."""
    found = {}
    peers = [name[:-3] for name in rows[0] if name.endswith("_us") and name not in OWN_TIMES]
    for row in rows:
        how = "selected" if row["chosen"] == "1" else row["algorithm"]
        label = f"allfold {row['buffers']}{mode_text(row)} ({how})"
        found.setdefault(label, {})[int(row["bytes"])] = value(row, float(row["time_us"]), axis)
    for peer in peers:
        for row in rows:
            if row[f"{peer}_us"]:
                label = f"{PEERS.get(peer, 'Open MPI ' + peer)}{mode_text(row)}"
                found.setdefault(label, {})[int(row["bytes"])] = value(row, float(row[f"{peer}_us"]), axis)
    return {label: sorted(points.items()) for label, points in found.items()}


def size_text(number):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:g} {unit}"
        number /= 1024
    return f"{number:g} TiB"


class Scale:
    """Maps the logarithm of a range onto pixels."""

    def __init__(self, low, high, first, last):
        self.low, self.high = math.log(low), math.log(high)
        if self.low == self.high:
            self.low, self.high = self.low - 0.5, self.high + 0.5
        self.first, self.last = first, last

    def __call__(self, x):
        return self.first + (math.log(x) - self.low) / (self.high - self.low) * (self.last - self.first)


def draw(title, found, axis):
    xs = [x for points in found.values() for x, _ in points]
    ys = [y for points in found.values() for _, y in points]
    low, high = 10 ** math.floor(math.log10(min(ys))), 10 ** math.ceil(math.log10(max(ys)) + 1e-9)
    across = Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    up = Scale(low, high, HEIGHT - BOTTOM, TOP)
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
           'font-size="12">', f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="28" font-size="16">{escape(title)}</text>']

    def line(x1, y1, x2, y2, color):
        svg.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>')

    def text(x, y, words, anchor="middle", extra=""):
        svg.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(words)}</text>')

    sizes = sorted(set(xs))
    for x in sizes[::max(1, len(sizes) // 9)]:
        line(across(x), TOP, across(x), HEIGHT - BOTTOM, "#dddddd")
        text(across(x), HEIGHT - BOTTOM + 18, size_text(x))
    decade = low
    while decade <= high * 1.001:
        line(LEFT, up(decade), WIDTH - RIGHT, up(decade), "#dddddd")
        text(LEFT - 8, up(decade) + 4, f"{decade:g}", "end")
        decade *= 10
    text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, "bytes of the vector on each rank")
    text(0, 0, AXES[axis], extra=f'transform="translate(22 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"')
    for index, (label, points) in enumerate(found.items()):
        color = COLORS[index % len(COLORS)]
        dashes = "" if label.startswith("allfold") else ' stroke-dasharray="6 4"'
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        svg.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dashes}/>')
        svg += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.5" fill="{color}"/>' for x, y in points]
        y = TOP + 10 + 20 * index
        svg.append(f'<line x1="{WIDTH - RIGHT + 12}" y1="{y}" x2="{WIDTH - RIGHT + 40}" y2="{y}" stroke="{color}" '
                   f'stroke-width="2"{dashes}/>')
        text(WIDTH - RIGHT + 46, y + 4, label, "start")
    return "\n".join(svg + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=pathlib.Path, help="what allfold_perf --csv wrote")
    parser.add_argument("-o", "--output", type=pathlib.Path, help="default: the CSV's name with .svg")
    parser.add_argument("--y", choices=AXES, default="time_us")
    parser.add_argument("--title")
    arguments = parser.parse_args()
    rows = read(arguments.csv)
    first = rows[0]
    collectives = list(dict.fromkeys(map(collective, rows)))
    for name in collectives:
        title = arguments.title or (f"{name}, {first['ranks']} ranks ({first['ranks_are']}), "
                                    f"{first['type']} {first['op']}, "
                                    f"{'in place' if first['in_place'] == '1' else 'out of place'}")
        output = arguments.output or arguments.csv.with_suffix(".svg")
        if len(collectives) > 1:
            output = output.with_suffix(f".{name}.svg")
        found = curves([row for row in rows if collective(row) == name], arguments.y)
        output.write_text(draw(title, found, arguments.y), encoding="utf-8")
        print(output)


if __name__ == "__main__":
    main()
