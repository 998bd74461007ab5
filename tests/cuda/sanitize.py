# SPDX-License-Identifier: Apache-2.0
"""Runs the short rounds of test programs under one tool of compute-sanitizer, on 2, 3 and 4 GPUs as there are.

    sanitize.py memcheck|racecheck|synccheck PROGRAM...

Every rank is a process under a compute-sanitizer of its own, so that no tool holds up one rank's kernel for another's.
Where there is but one GPU, two ranks share it.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from scripting import Failure, main, run, skip  # noqa: E402

FOUND_ERRORS = 99  # the exit status of compute-sanitizer where it found any
PATIENCE_S = 400  # for the ranks of one run together


def gpus():
    """How many GPUs programs see here."""
    if not shutil.which("nvidia-smi"):
        return 0
    status, output = run(["nvidia-smi", "-L"])
    count = sum(line.startswith("GPU ") for line in output.splitlines()) if status == 0 else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return count if visible is None else min(count, len([d for d in visible.split(",") if d.strip()]))


def sanitizer():
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    return shutil.which("compute-sanitizer", path=path)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_rank(tool, program, rank, world_size, gpu_count, port, output):
    environment = dict(
        os.environ,
        LC_ALL="C",
        ALLFOLD_RANK=str(rank),
        ALLFOLD_WORLD_SIZE=str(world_size),
        ALLFOLD_LOCAL_RANK=str(rank),
        ALLFOLD_LOCAL_WORLD_SIZE=str(world_size),
        ALLFOLD_MEETING=f"127.0.0.1:{port}",
        ALLFOLD_TEST_EXTERNAL=str(gpu_count),
        ALLFOLD_TEST_TIMEOUT_S="200",
    )
    environment.pop("ALLFOLD_TEST_GPUS", None)
    if world_size > gpu_count:
        environment["ALLFOLD_SHARE_DEVICE"] = "1"
    command = [sanitizer(), "--tool", tool, "--error-exitcode", str(FOUND_ERRORS), "--print-limit", "20", program]
    command += ["--test-case=a short round for the sanitizers", "--no-intro", "--no-path-filenames"]
    return subprocess.Popen(
        command,
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )


def end_of(process, began):
    """The exit status of a rank; None if it was late, and was killed with what it had started."""
    try:
        return process.wait(timeout=max(1, began + PATIENCE_S - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def run_world(tool, program, world_size, gpu_count):
    """Runs the ranks and says what they found."""
    port = free_port()
    began = time.monotonic()
    shape = f"{os.path.basename(program)}, {tool}, {world_size} ranks on {min(world_size, gpu_count)} GPU(s)"
    with contextlib.ExitStack() as stack:
        # Into files: a pipe that nobody reads would hold a rank up.
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(world_size)]
        ranks = [
            start_rank(tool, program, rank, world_size, gpu_count, port, output) for rank, output in enumerate(outputs)
        ]
        statuses = [end_of(process, began) for process in ranks]
        for rank, (status, output) in enumerate(zip(statuses, outputs)):
            output.seek(0)
            text = output.read().decode(errors="replace")
            if "Device not supported" in text:
                skip(f"compute-sanitizer does not support this device or its driver ({tool})")
            if status != 0:
                how = "was late" if status is None else f"ended with status {status}"
                raise Failure(f"{shape}: rank {rank} {how}:\n{text}")
    print(f"{shape}: clean after {time.monotonic() - began:.0f} s")


def body():
    tool, *programs = sys.argv[1:]
    gpu_count = gpus()
    if gpu_count == 0:
        skip("there is no GPU")
    if not sanitizer():
        skip("there is no compute-sanitizer")
    world_sizes = [2] if gpu_count == 1 else range(2, min(gpu_count, 4) + 1)
    for program in programs:
        for world_size in world_sizes:
            run_world(tool, program, world_size, gpu_count)


main(body)
