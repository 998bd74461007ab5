# SPDX-License-Identifier: Apache-2.0
"""Two hosts as far as networks go: this process's network namespace and another, joined by a cable (veth)."""

import os
import shutil
import subprocess
import sys
import time

from scripting import Failure, must, run, skip

ADDRESSES = ("10.78.0.1", "10.78.0.2")
INSIDE = "ALLFOLD_TEST_INSIDE_NAMESPACE"


def enter():
    """Starts this script anew in a network namespace of its own; skips where there can be none."""
    if os.environ.get(INSIDE):
        return
    for program in ("unshare", "nsenter", "ip"):
        if not shutil.which(program):
            skip(f"there is no program {program} (Debian and Ubuntu: util-linux, iproute2)")
    # Somebody other than root becomes root of a user namespace.
    for how in (["--net"], ["--user", "--map-root-user", "--net"]):
        if run(["unshare", *how, "ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"])[0] == 0:
            os.environ[INSIDE] = "1"
            os.execvp("unshare", ["unshare", *how, sys.executable, *sys.argv])
    skip("network namespaces with veth interfaces are not allowed here")


def wait_until(holds, what):
    deadline = time.monotonic() + 10
    while not holds():
        if time.monotonic() > deadline:
            raise Failure(f"there was not {what} within 10 s")
        time.sleep(0.01)


class SecondHost:
    """The other namespace, which lasts as long as this object's process."""

    def __init__(self):
        # It ends when its input does: with this process, however that ends.
        self.holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        self.path = f"/proc/{self.holder.pid}/ns/net"
        wait_until(lambda: os.readlink(self.path) != os.readlink("/proc/self/ns/net"), "a second network namespace")
        must(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.holder.pid])
        for here, address in (([], ADDRESSES[0]), (self.prefix(), ADDRESSES[1])):
            must([*here, "ip", "link", "set", "lo", "up"])
            must([*here, "ip", "address", "add", f"{address}/24", "dev", "eth0"])
            must([*here, "ip", "link", "set", "eth0", "up"])
        # The kernel says so a moment later, and UCX leaves out what is not running.
        for here in ([], self.prefix()):
            wait_until(lambda: "state UP" in must([*here, "ip", "-o", "link", "show", "eth0"]), "a cable")

    def prefix(self):
        """What runs a command there."""
        return ["nsenter", f"--net={self.path}", "--"]

    def close(self):
        self.holder.kill()
        self.holder.wait()
