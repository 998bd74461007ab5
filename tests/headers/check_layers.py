#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Walks the includes of include/allfold and names every one that breaks the architecture (docs/architecture.md).

    check_layers.py INCLUDE_DIR     exits with 1 when a rule is broken
"""

import re
import sys
from pathlib import Path

# Bottom to top. A file includes from its own layer or below.
LAYERS = [
    {"base", "version.hpp"},
    {"policy", "op"},
    {"store", "topology", "select", "trace"},
    {"memory"},
    {"algo"},
    {"exec"},
    {"launch", "transport"},
    {
        "arguments.hpp", "attempt.hpp", "communicator", "communicator.hpp", "failure_report.hpp",
        "message_communicator.hpp", "rendezvous.hpp", "session.hpp",
        "symmetric_buffer.hpp", "work.hpp",
    },
    {"spawn", "spawn.hpp", "interop"},
    {"allfold.hpp", "allfold.cuh", "messages.hpp", "ucx.hpp", "ucx.cuh"},
]

# These stand on less than what lies below them.
ONLY = {
    "store": {"store", "policy", "base"},
    "topology": {"topology", "policy", "base"},
    "select": {"select", "policy", "base"},
    "trace": {"trace", "policy", "base"},
    "spawn": {"spawn", "spawn.hpp", "policy", "base"},
    "spawn.hpp": {"spawn", "policy", "base"},
}

# A file of these folders that defines a policy class is included by umbrellas alone: the communicator sees concepts,
# and policies do not know each other. Its own parts share the first word of its name (tcp.hpp, tcp_client.hpp).
POLICY_FOLDERS = {"store", "topology", "select", "trace", "transport"}
POLICY_CLASS = re.compile(r"\busing\s+policy_category\s*=")
NO_POLICY = {"store/store_ref.hpp"}  # stands for any store, so it is a concept as a class
KNOW_POLICIES = {"allfold.hpp", "allfold.cuh", "messages.hpp", "ucx.hpp", "ucx.cuh", "interop"}

# Too dear to compile, or a sign of global state; every program that includes allfold would pay.
FORBIDDEN = {
    "filesystem", "format", "fstream", "functional", "future", "iomanip", "iostream", "istream", "locale", "ostream",
    "print", "random", "ranges", "regex", "sstream", "syncstream", "thread", "unordered_map", "unordered_set",
}
# Where one of them is what the header is about.
GRANTED = {
    "communicator/health_check.hpp": {"thread"},
    "exec": {"thread"},
    "launch": {"thread"},
    "spawn": {"thread"},
    "store/tcp_server.hpp": {"thread"},
    "work.hpp": {"future"},
}

CUDA_HEADER = re.compile(r"^(cuda|cub/|thrust/|nv/|nvml|nvtx|nccl|cooperative_groups|driver_types|vector_types)")
UCX_HEADER = re.compile(r"^(ucp|uct|ucs|ucm|ucc)/")
# A header of the standard library has no suffix and no folder; all others are the system's or somebody else's.
STANDARD_HEADER = re.compile(r"^[a-z_0-9]+$")
PURE = {"algo", "op", "policy"}  # templates over concepts: the standard library and allfold, nothing else

# Declared in a namespace, at the beginning of a line. In detail a name that is public as well would hide it, in those
# programs alone that include both.
NAMESPACE = re.compile(r"^(?:inline )?namespace ([\w:]+)(?: ALLFOLD_HIDDEN)? \{")
NAMESPACE_END = re.compile(r"^\}  // namespace")
DECLARED = re.compile(r"^(?:template <.*> )?(?:struct|class|enum class|using|concept) (?:alignas\(\w+\) )?(\w+)\b")

HARD_LINE_CAP = 500
SOFT_LINE_CAP = 300

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def unit(path):
    """The name in LAYERS that a path below include/allfold belongs to: its folder, or itself."""
    return path.split("/")[0]


def layer(path):
    for number, members in enumerate(LAYERS):
        if unit(path) in members:
            return number
    return None


def family(path):
    return Path(path).stem.split("_")[0]


def check_own_include(path, target, policies):
    """The broken rule, or None, for `path` including <allfold/target>."""
    here, there = unit(path), unit(target)
    if path.endswith(".hpp") and target.endswith(".cuh"):
        return "a .hpp never includes a .cuh"
    if layer(target) is None:
        return f"{there} belongs to no layer"
    if here in ONLY and there not in ONLY[here]:
        return f"{here} stands on {', '.join(sorted(ONLY[here]))} alone"
    if layer(target) > layer(path):
        return f"{there} lies above {here}"
    if target in policies and here not in KNOW_POLICIES and (here != there or family(path) != family(target)):
        return "it defines a policy, which umbrellas alone include; others see concepts"
    return None


def check_foreign_include(path, target):
    """The broken rule, or None, for `path` including <target>, which is not ours."""
    here = unit(path)
    if target in FORBIDDEN and target not in GRANTED.get(here, set()) | GRANTED.get(path, set()):
        return "too dear to compile for a header of allfold"
    if CUDA_HEADER.match(target) and path.endswith(".hpp"):
        return "a .hpp needs no CUDA header"
    if UCX_HEADER.match(target) and not Path(path).name.startswith("ucx"):
        return "UCX belongs into ucx*.hpp"
    if here in PURE and not STANDARD_HEADER.match(target):
        return f"{here}/ includes no header of the system, CUDA or UCX"
    return None


def without_comments(text):
    """The text with blanks for its comments; lines stay where they are."""
    return COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)


def declared_names(text):
    """The line of each name that the text declares: those of a detail namespace, and the others."""
    hidden, public, inside = {}, {}, []
    for number, line in enumerate(text.split("\n"), 1):
        if opened := NAMESPACE.match(line):
            inside.append(opened.group(1))
        elif NAMESPACE_END.match(line):
            inside.pop()
        elif name := DECLARED.match(line):
            (hidden if any("detail" in each for each in inside) else public)[name.group(1)] = number
    return hidden, public


def check_hidden_names(texts):
    """Names of detail that hide public ones."""
    names = {path: declared_names(text) for path, text in texts.items()}
    public = {name: path for path, (_, theirs) in names.items() for name in theirs}
    return [
        f"{path}:{line}: detail::{name} hides {name} of {public[name]}; name it otherwise"
        for path, (hidden, _) in names.items()
        for name, line in hidden.items()
        if name in public
    ]


def find_cycle(graph):
    """A list of files that include each other in a circle, or None."""
    state = {}

    def visit(node, trail):
        state[node] = "open"
        for following in sorted(graph.get(node, ())):
            if state.get(following) == "open":
                return trail[trail.index(following) :] + [following] if following in trail else [following, node]
            if following in graph and following not in state:
                cycle = visit(following, trail + [following])
                if cycle:
                    return cycle
        state[node] = "done"
        return None

    for node in sorted(graph):
        if node not in state:
            cycle = visit(node, [node])
            if cycle:
                return cycle
    return None


def check(include_dir):
    """Every broken rule below include_dir, as `file:line: sentence`, and the remarks, which break nothing."""
    root = Path(include_dir) / "allfold"
    problems, remarks, graph = [], [], {}
    paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    if not paths:
        problems.append(f"{root}: there is no header")
    texts = {}
    for path in paths:
        if not path.endswith((".hpp", ".cuh")):
            problems.append(f"{path}:1: a header is a .hpp or a .cuh")
        elif layer(path) is None:
            problems.append(f"{path}:1: {unit(path)} belongs to no layer; name it in check_layers.py")
        else:
            texts[path] = (root / path).read_text(encoding="utf-8")
    policies = {
        path
        for path, text in texts.items()
        if unit(path) in POLICY_FOLDERS and path not in NO_POLICY and POLICY_CLASS.search(without_comments(text))
    }
    for path, text in texts.items():
        lines = text.count("\n")
        if lines > HARD_LINE_CAP:
            problems.append(f"{path}:{lines}: {lines} lines; at most {HARD_LINE_CAP}")
        elif lines > SOFT_LINE_CAP:
            remarks.append(f"{path}: {lines} lines, above the soft cap of {SOFT_LINE_CAP}")
        if not text.startswith("// SPDX-License-Identifier: Apache-2.0\n#pragma once\n"):
            problems.append(f"{path}:1: a header begins with its SPDX line and #pragma once")
        code = without_comments(text)
        graph[path] = set()
        for match in INCLUDE.finditer(code):
            bracket, target = match.groups()
            if bracket == '"':
                problem = f"written with quotes; write <allfold/{target}>"
            elif target.startswith("allfold/"):
                own = target[len("allfold/") :]
                graph[path].add(own)
                problem = "there is no such header"
                if (root / own).is_file():
                    problem = check_own_include(path, own, policies)
            else:
                problem = check_foreign_include(path, target)
            if problem:
                line = code.count("\n", 0, match.start(1)) + 1
                problems.append(f"{path}:{line}: includes {target}: {problem}")
    problems += check_hidden_names(texts)
    cycle = find_cycle(graph)
    if cycle:
        problems.append(f"{cycle[0]}:1: a circle of includes: {' -> '.join(cycle)}")
    return problems, remarks, len(paths)


def main():
    problems, remarks, count = check(sys.argv[1])
    for remark in remarks:
        print(f"remark: {remark}")
    for problem in problems:
        print(f"FAILED: include/allfold/{problem}")
    print(f"{count} headers, {len(problems)} broken rules")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
