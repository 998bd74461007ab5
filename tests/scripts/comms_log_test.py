#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""scripts/comms_log_to_chrome: what it makes of logs that were written by hand, and of those of a real program.

    comms_log_test.py COMPILER INCLUDE_DIR
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
from scripting import must

SCRIPT = HERE.parent.parent / "scripts" / "comms_log_to_chrome"
COMPILER, INCLUDE_DIR = sys.argv[1:3]


def header(rank, host="a", clock_us=1000, wall_us=5000000, **other):
    return {
        "kind": "header", "format": "allfold comms log", "version": 1, "rank": rank, "world_size": 2, "host": host,
        "boot": f"boot of {host}", "process": 10 + rank, "clock_us": clock_us, "wall_us": wall_us, **other,
    }


def operation(begin_us, end_us, sequence=1, channel=0, kind="operation", **other):
    return {
        "kind": kind, "operation": "all_reduce", "sequence": sequence, "channel": channel, "begin_us": begin_us,
        "end_us": end_us, **other,
    }


END = {"kind": "end", "clock_us": 9000, "lost_lines": 0}


def text_of(*lines):
    return "".join(json.dumps(line) + "\n" for line in lines)


class CommsLog(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def file(self, name, content):
        path = self.directory / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def run_script(self, *arguments):
        command = [sys.executable, str(SCRIPT), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def convert(self, *logs):
        """The trace of logs, each a text; no remark must be made."""
        paths = [self.file(f"{number}.jsonl", log) for number, log in enumerate(logs)]
        result = self.run_script(*paths)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return json.loads(result.stdout)

    def refusal(self, log):
        path = self.file("bad.jsonl", log)
        output = self.directory / "trace.json"
        result = self.run_script("-o", output, path)
        self.assertEqual(result.returncode, 1)
        self.assertFalse(output.exists())
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        return result.stderr.replace(f"{path}", "LOG").strip()

    @staticmethod
    def complete(trace):
        return [event for event in trace if event["ph"] == "X"]

    @staticmethod
    def names(trace, kind):
        return {(e["pid"], e.get("tid")): e["args"]["name"] for e in trace if e["name"] == kind}

    def test_an_operation(self):
        more = {"count": 7, "in_bytes": 28, "in_splits": [1, 6], "root": 0, "type": "float"}
        trace = self.convert(text_of(header(1), operation(1500.5, 1510.75, sequence=4, channel=2, **more), END))
        self.assertEqual(
            self.complete(trace),
            [
                {
                    "name": "all_reduce", "cat": "operation", "ph": "X", "ts": 500.5, "dur": 10.25, "pid": 2, "tid": 3,
                    "args": {"sequence": 4, "channel": 2, **more},
                }
            ],
        )
        self.assertEqual(self.names(trace, "process_name"), {(2, None): "rank 1 of 2 (a, process 11)"})
        self.assertEqual(self.names(trace, "thread_name"), {(2, 3): "channel 2"})

    def test_ranks_of_one_host_share_its_clock_and_hosts_share_the_wall_clock(self):
        trace = self.convert(
            text_of(header(0, "a", clock_us=1000, wall_us=5000000), operation(1100, 1200), END),
            # The same clock; this rank was interrupted for 300 us between its two readings.
            text_of(header(1, "a", clock_us=1010, wall_us=5000310), operation(1100, 1200), END),
            # A host that has run for longer.
            text_of(header(2, "b", clock_us=77000, wall_us=5000050), operation(77100, 77200), END),
        )
        self.assertEqual([(e["pid"], e["ts"]) for e in self.complete(trace)], [(1, 100), (2, 100), (3, 150)])

    def test_what_overlaps_gets_threads_of_its_own(self):
        trace = self.convert(
            text_of(
                header(0),
                operation(1300, 1400, sequence=3),
                operation(1000, 1200, sequence=1),
                operation(1100, 1250, sequence=2),
                operation(1200, 1220, sequence=1, kind="wait"),
                operation(1000, 1100, channel=1),
                END,
            )
        )
        found = {(e["cat"], e["args"]["sequence"], e["args"]["channel"]): e["tid"] for e in self.complete(trace)}
        threads = self.names(trace, "thread_name")
        self.assertEqual(found[("operation", 1, 0)], 1)
        self.assertEqual(found[("operation", 3, 0)], 1)
        self.assertEqual(found[("operation", 1, 1)], 2)
        self.assertEqual(threads[(1, found[("operation", 2, 0)])], "channel 0, beside (1)")
        self.assertEqual(threads[(1, found[("wait", 1, 0)])], "channel 0, waits")
        self.assertEqual(len(set(threads)), 4)
        self.assertIn("wait for all_reduce", [e["name"] for e in self.complete(trace)])

    def test_messages_belong_to_no_channel(self):
        trace = self.convert(
            text_of(
                header(0),
                operation(1100, 1200, channel=-1, peer=1, tag=0),
                operation(1150, 1300, channel=-1, sequence=2, peer=1, tag=0),
                operation(1150, 1300, channel=-1, sequence=2, kind="wait"),
                operation(1100, 1200),
                END,
            )
        )
        titles = self.names(trace, "thread_name")
        self.assertNotIn(0, [thread for _, thread in titles])
        self.assertEqual(
            sorted(titles.values()), ["channel 0", "messages", "messages, beside (1)", "messages, waits"]
        )

    def test_a_second_communicator_of_a_rank(self):
        trace = self.convert(
            text_of(header(0, clock_us=2000, wall_us=5001000), operation(2100, 2200), END),
            text_of(header(0), operation(1500, 2150), END),
        )
        titles = self.names(trace, "thread_name")
        self.assertEqual(
            [(e["ts"], titles[(1, e["tid"])]) for e in self.complete(trace)],
            [(500, "channel 0"), (1100, "communicator 2, channel 0")],
        )

    def test_a_failure_says_so(self):
        trace = self.convert(text_of(header(0), operation(1, 2, error='rank 1 said "no"'), END))
        (event,) = self.complete(trace)
        self.assertEqual((event["name"], event["args"]["error"]), ("all_reduce (failed)", 'rank 1 said "no"'))

    def test_a_log_without_events(self):
        self.assertEqual(self.complete(self.convert(text_of(header(0), END))), [])

    def test_a_killed_rank_leaves_a_cut_line(self):
        whole = text_of(header(0), operation(1, 2), operation(3, 4))
        line = json.dumps(operation(5, 6))
        for length in range(1, len(line), 9):
            path = self.file("cut.jsonl", whole + line[:length])
            result = self.run_script(path)
            self.assertEqual(result.returncode, 0)
            self.assertEqual(len(self.complete(json.loads(result.stdout))), 2)
            self.assertIn("the last line is cut short, and left out", result.stderr)
            self.assertIn("the rank was killed", result.stderr)
        # The line is whole, but for its newline.
        result = self.run_script(self.file("cut.jsonl", whole + line))
        self.assertEqual(len(self.complete(json.loads(result.stdout))), 3)
        self.assertNotIn("left out", result.stderr)
        # Cut in the middle of a character.
        result = self.run_script(self.file("cut.jsonl", whole.encode() + b'{"kind":"operation","type":"\xc3'))
        self.assertEqual(len(self.complete(json.loads(result.stdout))), 2)

    def test_lost_lines_are_told(self):
        result = self.run_script(self.file("log.jsonl", text_of(header(0), dict(END, lost_lines=3))))
        self.assertEqual(result.returncode, 0)
        self.assertIn("3 lines were lost", result.stderr)

    def test_what_is_no_log_is_refused(self):
        good = text_of(header(0))
        for log, said in (
            ("", "LOG: the file is empty; expected a comms log"),
            ("hello\n", "LOG:1: this is no JSON"),
            ("hello", "LOG:1: this is no JSON"),
            ("[1]\n", "LOG:1: this is no line of a comms log"),
            ('{"kind":["header"]}\n', "LOG:1: this is no line of a comms log"),
            (json.dumps(header(0))[:50], "LOG:1: this is no JSON"),
            (b"\xff\xfe\n", "LOG:1: this is no JSON"),
            (text_of(END), "LOG:1: a log has one header, which is its first line"),
            (good + good, "LOG:2: a log has one header, which is its first line"),
            (good + text_of(END, END), "LOG:3: a line follows the log's end"),
            (good + '{"kind":"operation"\n' + good, "LOG:2: this is no JSON"),
            (good + '{"kind":"operation"\n', "LOG:2: this is no JSON"),
            (good + '{"kind":"note"}\n', "LOG:2: this is no line of a comms log"),
            (text_of(dict(header(0), version=2)), "LOG:1: the format's version is 2; this script reads 1"),
            (text_of(header(-1)), "LOG:1: in a line of kind header, rank is a whole number; got -1"),
            (text_of(header(True)), "LOG:1: in a line of kind header, rank is a whole number; got True"),
            (text_of(header(0, host=None)), "LOG:1: in a line of kind header, host is a text; got None"),
            (good + text_of(operation("1", 2)), "LOG:2: in a line of kind operation, begin_us is a number; got '1'"),
            (good + text_of(operation(1, 2, channel=0.5)), "LOG:2: in a line of kind operation, channel is a whole"),
            (good + text_of(operation(1, float("inf"))), "LOG:2: in a line of kind operation, end_us is a number"),
            (good + text_of(operation(1, 2, channel=-2)), "LOG:2: in a line of kind operation, channel is a whole"),
            (good + text_of(operation(1, 2, sequence=-1)), "LOG:2: in a line of kind operation, sequence is a whole"),
            (good + text_of(operation(2, 1)), "LOG:2: it ends before it begins"),
        ):
            with self.subTest(log=log):
                self.assertIn(f"comms_log_to_chrome: {said}", self.refusal(log))

    def test_files_that_cannot_be_used(self):
        log = self.file("log.jsonl", text_of(header(0), END))
        for arguments, said in (
            ([self.directory / "missing.jsonl"], "missing.jsonl: No such file or directory"),
            ([self.directory], "Is a directory"),
            ([log, log], "this log is named twice"),
            (["-o", log, log], "the trace would overwrite this log"),
            (["-o", self.directory / "missing" / "trace.json", log], "trace.json: No such file or directory"),
            (["-o", "/dev/full", log], "/dev/full: No space left on device"),
        ):
            with self.subTest(said):
                result = self.run_script(*arguments)
                self.assertEqual(result.returncode, 1)
                self.assertIn(said, result.stderr)
                self.assertEqual(result.stderr.count("\n"), 1)
        self.assertEqual(log.read_text(encoding="utf-8"), text_of(header(0), END))

    def test_the_logs_of_a_program(self):
        program = self.directory / "program"
        flags = ["-std=c++20", "-O1", "-pthread", f"-I{INCLUDE_DIR}"]
        must([COMPILER, *flags, HERE / "comms_log_program.cpp", "-o", program])
        must([program], env={"ALLFOLD_COMMS_LOG": str(self.directory / "log")})
        logs = sorted(self.directory.glob("*.jsonl"))
        self.assertEqual([log.name for log in logs], [f"log.rank{rank}.jsonl" for rank in range(3)])
        output = self.directory / "trace.json"
        result = self.run_script(*logs, "-o", output)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))
        events = self.complete(json.loads(output.read_text(encoding="utf-8")))
        self.assertEqual(len(events), 3 * 12)
        by_call = {}
        for event in events:
            by_call.setdefault((event["args"]["channel"], event["args"]["sequence"]), []).append(event)
        self.assertEqual(len(by_call), 12)
        for ranks in by_call.values():
            self.assertEqual(sorted(event["pid"] for event in ranks), [1, 2, 3])
            # Nobody leaves a call before all have entered it: so it is in the trace, to the clocks' precision.
            self.assertLess(max(e["ts"] for e in ranks), min(e["ts"] + e["dur"] for e in ranks))
        odd = by_call[(0, 11)][0]
        self.assertEqual(odd["args"]["type"], '"odd"\\\n\u00e9\ufffd')
        self.assertEqual((odd["args"]["count"], odd["args"]["in_bytes"]), (3, 12))
        self.assertEqual(by_call[(1, 1)][0]["name"], "barrier")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
