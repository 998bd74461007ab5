# SPDX-License-Identifier: Apache-2.0
"""Ranks that are started by hand: a process each, told who it is by variables."""

import os
import socket
import subprocess
import time

from scripting import Failure


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def variables(rank, world_size, host, port, local_world_size=1):
    """As torchrun sets them."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank % local_world_size),
        "LOCAL_WORLD_SIZE": str(local_world_size),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }


def run_ranks(commands, environments, timeout_s):
    """Runs a process for each rank; returns their outputs. All must end well, in time."""
    ranks = []
    try:
        for command, environment in zip(commands, environments):
            ranks.append(
                subprocess.Popen(
                    [str(word) for word in command],
                    env=dict(os.environ, **environment),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        deadline = time.monotonic() + timeout_s
        outputs = []
        for number, rank in enumerate(ranks):
            try:
                outputs.append(rank.communicate(timeout=max(0.1, deadline - time.monotonic()))[0])
            except subprocess.TimeoutExpired:
                raise Failure(f"rank {number} did not end within {timeout_s} s") from None
        for number, rank in enumerate(ranks):
            if rank.returncode != 0:
                raise Failure(f"rank {number} ended with status {rank.returncode}:\n" + "\n".join(outputs))
        return outputs
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
