#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""scripts/summarize.py counts as passed only what ran and passed."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "scripts"))
import summarize

PASSED = '<testcase name="unit.a" status="run"><system-out>[doctest] test cases: 3 | 3 passed</system-out></testcase>'
FAILED = '<testcase name="unit.b" status="fail"><failure message="Failed"/><system-out>x</system-out></testcase>'
SKIPPED = (
    '<testcase name="unit.c" status="notrun"><skipped message="SKIP_RETURN_CODE=77"/>'
    "<system-out>skipped case: c1: no GPU\nskipped case: c2: no ptrace\n</system-out></testcase>"
)
NOT_RUN = '<testcase name="unit.d" status="notrun"><skipped message="Unable to find executable"/></testcase>'
DISABLED = '<testcase name="unit.e" status="disabled"><skipped message="Disabled"/></testcase>'


def summary_of(*tests, others=()):
    summary = summarize.Summary()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "junit.xml"
        path.write_text(f"<testsuite>{''.join(tests)}</testsuite>", encoding="utf-8")
        summary.add("host", str(path))
    for preset, outcome in others:
        summary.add(preset, outcome)
    return summary


class Summarize(unittest.TestCase):
    def test_passed(self):
        summary = summary_of(PASSED)
        self.assertTrue(summary.good())
        self.assertEqual(summary.passed, [("host", "unit.a")])
        self.assertIn("1 tests passed, 0 failed, 0 skipped (3 cases", summary.text())

    def test_one_failure_is_enough(self):
        for test in (FAILED, NOT_RUN, DISABLED):
            with self.subTest(test):
                self.assertFalse(summary_of(PASSED, test).good())

    def test_skipped_is_not_passed_and_each_case_is_named(self):
        summary = summary_of(PASSED, SKIPPED)
        self.assertTrue(summary.good())
        self.assertEqual(len(summary.passed), 1)
        self.assertIn("host: unit.c: c1: no GPU", summary.text())
        self.assertIn("host: unit.c: c2: no ptrace", summary.text())

    def test_skips_alone_are_no_success(self):
        self.assertFalse(summary_of(SKIPPED).good())

    def test_whole_presets(self):
        self.assertFalse(summary_of(PASSED, others=[("cuda", "failed:build")]).good())
        summary = summary_of(PASSED, others=[("cuda", "skipped:there is no nvcc")])
        self.assertTrue(summary.good())
        self.assertIn("cuda: there is no nvcc", summary.text())

    def test_no_tests_or_no_file(self):
        self.assertFalse(summary_of().good())
        self.assertFalse(summary_of(PASSED, others=[("host-asan", "/nowhere/junit.xml")]).good())


if __name__ == "__main__":
    unittest.main()
