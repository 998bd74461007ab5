#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""compile_fail.py passes a proper case, and fails each kind of case that shows nothing.

    compile_fail_test.py COMPILER
"""

import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
from compile_fail import check
from scripting import Failure

COMPILER = sys.argv.pop()

PROPER = """// expect: write (an int|a long) instead
#ifdef ALLFOLD_POSITIVE_CONTROL
static_assert(true);
#else
static_assert(false, "short is no number; write an int instead");
#endif
"""


class CompileFail(unittest.TestCase):
    def outcome(self, text):
        with tempfile.TemporaryDirectory() as directory:
            case = Path(directory) / "case.cpp"
            case.write_text(text, encoding="utf-8")
            return check(directory, case, COMPILER, [])

    def assert_fails(self, message, text):
        with self.assertRaisesRegex(Failure, message):
            self.outcome(text)

    def test_proper_case_passes(self):
        line, count = self.outcome(PROPER)
        self.assertIn("write an int instead", line)
        self.assertEqual(count, 1)

    def test_mistake_that_compiles(self):
        self.assert_fails("compiles; expected an error", PROPER.replace("assert(false", "assert(true"))

    def test_other_error(self):
        self.assert_fails("no error matches", PROPER.replace("write an int", "write a double"))

    def test_expectation_met_outside_an_error(self):
        text = PROPER.replace("write an int", "write a double").replace("#else", "#else\n#warning write an int instead")
        self.assert_fails("no error matches", text)

    def test_control_that_does_not_compile(self):
        self.assert_fails("corrected program does not compile", PROPER.replace("assert(true", "assert(false"))

    def test_case_without_control(self):
        self.assert_fails("no corrected program", PROPER.replace("ALLFOLD_POSITIVE_CONTROL", "OTHER"))

    def test_case_without_expectation(self):
        self.assert_fails("the first line has to be", PROPER.replace("// expect:", "// hope:"))
        self.assert_fails("the first line has to be", "// expect: \n" + PROPER)


if __name__ == "__main__":
    unittest.main()
