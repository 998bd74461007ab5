#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_layers.py finds each kind of mistake in a tree that has just that one, and none in a tree without."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import check_layers

POLICY = "struct Policy {\n  using policy_category = int;\n};\n"
HEAD = "// SPDX-License-Identifier: Apache-2.0\n#pragma once\n"

GOOD = {
    "base/config.hpp": "",
    "base/error.hpp": "#include <string>\n#include <unistd.h>\n#include <allfold/base/config.hpp>\n",
    "policy/store.hpp": "#include <concepts>\n#include <allfold/base/error.hpp>\n",
    "op/sum.hpp": "#include <allfold/base/config.hpp>\n// #include <cuda_fp16.h>\n"
    "namespace allfold::detail {\n\nstruct Own {\n};\n\n}  // namespace allfold::detail\n"
    "namespace allfold {\n\nstruct Sum {\n};\n\n}  // namespace allfold\n",
    "store/all_gather.hpp": "#include <allfold/policy/store.hpp>\n",
    "store/file.hpp": "#include <allfold/policy/store.hpp>\n" + POLICY,
    "store/tcp_client.hpp": "#include <sys/socket.h>\n",
    "store/tcp.hpp": "#include <allfold/store/all_gather.hpp>\n#include <allfold/store/tcp_client.hpp>\n" + POLICY,
    "memory/window.hpp": "#include <allfold/op/sum.hpp>\n",
    "algo/symmetric/one_shot.hpp": "#include <allfold/memory/window.hpp>\n",
    "exec/host_team.hpp": "#include <thread>\n#include <allfold/algo/symmetric/one_shot.hpp>\n",
    "exec/cuda_grid.cuh": "#include <cuda_runtime.h>\n#include <allfold/memory/window.hpp>\n",
    "launch/host.hpp": "#include <allfold/exec/host_team.hpp>\n",
    "transport/shm.hpp": "#include <sys/mman.h>\n#include <allfold/launch/host.hpp>\n" + POLICY,
    "transport/ucx.hpp": "#include <ucp/api/ucp.h>\n" + POLICY,
    "communicator.hpp": "#include <allfold/launch/host.hpp>\n#include <allfold/store/all_gather.hpp>\n",
    "allfold.hpp": "#include <allfold/communicator.hpp>\n#include <allfold/transport/shm.hpp>\n",
    "allfold.cuh": "#include <allfold/allfold.hpp>\n#include <allfold/exec/cuda_grid.cuh>\n",
}

# The file that is wrong, its text below the head, what the message says.
WRONG = {
    "upward": ("base/config.hpp", "#include <allfold/policy/store.hpp>\n", "policy lies above base"),
    "upward from algo": ("algo/a.hpp", "#include <allfold/exec/host_team.hpp>\n", "exec lies above algo"),
    "store on memory": ("store/file.hpp", "#include <allfold/memory/window.hpp>\n", "stands on base, policy, store"),
    "select on op": ("select/fixed.hpp", "#include <allfold/op/sum.hpp>\n", "stands on base, policy, select"),
    "sibling store": ("store/file.hpp", "#include <allfold/store/tcp.hpp>\n", "it defines a policy"),
    "sibling transport": ("transport/ucx.hpp", "#include <allfold/transport/shm.hpp>\n", "it defines a policy"),
    "concrete policy": ("communicator.hpp", "#include <allfold/transport/shm.hpp>\n", "others see concepts"),
    "store in a transport": ("transport/ucx.hpp", "#include <allfold/store/file.hpp>\n", "others see concepts"),
    "cuh in hpp": ("launch/host.hpp", "#include <allfold/exec/cuda_grid.cuh>\n", "never includes a .cuh"),
    "CUDA in hpp": ("transport/shm.hpp", "#include <cuda_runtime_api.h>\n", "needs no CUDA header"),
    "spaced CUDA in hpp": ("base/config.hpp", "  #  include <cuda/atomic>\n", "needs no CUDA header"),
    "OS in algo": ("algo/a.hpp", "#include <unistd.h>\n", "no header of the system"),
    "C header in op": ("op/sum.hpp", "#include <immintrin.h>\n", "no header of the system"),
    "UCX in algo": ("algo/a.hpp", "#include <ucp/api/ucp.h>\n", "UCX belongs"),
    "iostream": ("base/error.hpp", "#include <iostream>\n", "too dear"),
    "thread without a grant": ("base/error.hpp", "#include <thread>\n", "too dear"),
    "quotes": ("base/error.hpp", '#include "config.hpp"\n', "written with quotes"),
    "missing header": ("base/error.hpp", "#include <allfold/base/nothing.hpp>\n", "no such header"),
    "too long": ("base/error.hpp", "\n" * 499, "501 lines"),
    "unknown folder": ("misc/a.hpp", "", "belongs to no layer"),
    "not a header": ("base/a.cpp", "", "a header is a .hpp or a .cuh"),
    "name of detail that hides another": (
        "store/file.hpp",
        "namespace allfold::detail {\n\nenum class Sum { ok };\n\n}  // namespace allfold::detail\n",
        "detail::Sum hides Sum of op/sum.hpp",
    ),
    "circle": ("base/config.hpp", "#include <allfold/base/error.hpp>\n", "a circle of includes"),
    "circle with itself": ("base/config.hpp", "#include <allfold/base/config.hpp>\n", "a circle of includes"),
}


def problems_of(files):
    with tempfile.TemporaryDirectory() as directory:
        for path, text in files.items():
            file = Path(directory) / "allfold" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return check_layers.check(directory)[0]


class CheckLayers(unittest.TestCase):
    good = {path: HEAD + text for path, text in GOOD.items()}

    def test_good_tree_has_no_problem(self):
        self.assertEqual(problems_of(self.good), [])

    def test_each_wrong_tree_has_its_problem(self):
        for name, (path, text, message) in WRONG.items():
            with self.subTest(name):
                problems = problems_of({**self.good, path: HEAD + text})
                self.assertTrue(problems, "nothing was found")
                self.assertTrue(any(message in p and p.startswith(path) for p in problems), f"{message}: {problems}")

    def test_licence_and_guard(self):
        self.assertIn("begins with its SPDX line", problems_of({**self.good, "base/config.hpp": "#pragma once\n"})[0])

    def test_empty_tree_is_a_problem(self):
        self.assertIn("there is no header", problems_of({})[0])


if __name__ == "__main__":
    unittest.main()
