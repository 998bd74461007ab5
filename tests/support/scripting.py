# SPDX-License-Identifier: Apache-2.0
"""What the tests that are Python scripts share."""

import os
import shlex
import subprocess
import sys

SKIP_EXIT_CODE = 77  # SKIP_RETURN_CODE in tests/CMakeLists.txt


class Failure(Exception):
    """What was tested does not hold; the message says what and where."""


def skip(reason):
    """Ends the script as one that cannot run here: ctest reports it as skipped, never as passed."""
    print(f"skipped case: {os.path.basename(sys.argv[0])}: {reason}", flush=True)
    sys.exit(SKIP_EXIT_CODE)


def run(command, **options):
    """Runs `command`; returns its exit status and its output, both streams in one text."""
    environment = dict(os.environ, LC_ALL="C", **options.pop("env", {}))
    result = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env=environment,
        check=False,
        **options,
    )
    return result.returncode, result.stdout


def must(command, **options):
    """Runs `command`, which has to succeed; returns its output."""
    status, output = run(command, **options)
    if status != 0:
        raise Failure(f"exit status {status} from: {shlex.join(map(str, command))}\n{output}")
    return output


def main(body):
    """Runs body(); a Failure becomes a message and exit status 1."""
    try:
        body()
    except Failure as failure:
        print(f"FAILED: {failure}", flush=True)
        sys.exit(1)
