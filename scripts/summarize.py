#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Says what passed, failed and was skipped, from ctest's JUnit files; exits with 1 on any failure.

    summarize.py PRESET=junit.xml PRESET=failed:what PRESET=skipped:why ...
"""

import re
import sys
import textwrap
import xml.etree.ElementTree as ElementTree

SKIPPED_CASE = re.compile(r"^skipped case: (.*)$", re.MULTILINE)
CASE_COUNT = re.compile(r"\[doctest\] test cases:\s*(\d+)")
ASSERTION_COUNT = re.compile(r"\[doctest\] assertions:\s*(\d+)")


class Summary:
    def __init__(self):
        self.passed = []  # (preset, test)
        self.failed = []  # (preset, test, what)
        self.skipped = []  # (preset, test, why)
        self.cases = 0
        self.assertions = 0

    def add(self, preset, outcome):
        """`outcome` is a JUnit file, or failed:what, or skipped:why."""
        kind, _, text = outcome.partition(":")
        if kind == "failed":
            self.failed.append((preset, "", text))
        elif kind == "skipped":
            self.skipped.append((preset, "", text))
        else:
            self.add_junit(preset, outcome)

    def add_junit(self, preset, path):
        try:
            tests = list(ElementTree.parse(path).getroot().iter("testcase"))
        except (OSError, ElementTree.ParseError) as error:
            self.failed.append((preset, "", f"{path} cannot be read: {error}"))
            return
        if not tests:
            self.failed.append((preset, "", "not one test was run"))
        for test in tests:
            self.add_test(preset, test)

    def add_test(self, preset, test):
        name, status = test.get("name"), test.get("status")
        output = test.findtext("system-out") or ""
        skip, failure = test.find("skipped"), test.find("failure")
        self.cases += sum(map(int, CASE_COUNT.findall(output)))
        self.assertions += sum(map(int, ASSERTION_COUNT.findall(output)))
        if status == "run" and skip is None and failure is None:
            self.passed.append((preset, name))
        elif skip is not None and (skip.get("message") or "").startswith("SKIP_"):
            reasons = SKIPPED_CASE.findall(output) or ["no reason given"]
            self.skipped += [(preset, name, reason) for reason in reasons]
        else:
            # A test that did not run for any other reason (no program, a fixture that failed) has failed.
            notes = [note.get("message") for note in (failure, skip) if note is not None and note.get("message")]
            self.failed.append((preset, name, notes[0] if notes else status or "no status"))

    def text(self):
        lines = []
        for preset in dict.fromkeys(entry[0] for entry in self.passed):
            names = [name for p, name in self.passed if p == preset]
            lines.append(f"passed, {preset} ({len(names)}):")
            lines += textwrap.wrap(
                " ".join(names),
                116,
                initial_indent="  ",
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        for title, entries in (("skipped", self.skipped), ("FAILED", self.failed)):
            if entries:
                lines.append(f"{title} ({len(entries)}):")
            for preset, name, reason in entries:
                lines.append(f"  {preset}: {name}: {reason}" if name else f"  {preset}: {reason}")
        lines.append(
            f"{len(self.passed)} tests passed, {len(self.failed)} failed, {len(self.skipped)} skipped "
            f"({self.cases} cases, {self.assertions} assertions)"
        )
        return "\n".join(lines)

    def good(self):
        return bool(self.passed) and not self.failed


def main():
    summary = Summary()
    for argument in sys.argv[1:]:
        preset, _, outcome = argument.partition("=")
        summary.add(preset, outcome)
    print(summary.text())
    if not summary.passed:
        print("nothing passed, so nothing was tested")
    sys.exit(0 if summary.good() else 1)


if __name__ == "__main__":
    main()
