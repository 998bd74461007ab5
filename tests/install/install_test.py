#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Installs allfold into a prefix of its own, and builds programs that use it from there.

    install_test.py STEP WORK_DIR [options]     STEP is one of the functions below
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE_DIR = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "support"))
from scripting import Failure, main, must, run, skip


def version():
    text = (SOURCE_DIR / "include/allfold/version.hpp").read_text(encoding="utf-8")
    parts = [re.search(rf"version_{part} = (\d+);", text).group(1) for part in ("major", "minor", "patch")]
    return ".".join(parts)


def fresh(directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def prefix_of(arguments):
    return arguments.work_dir / "prefix"


def configure_command(arguments, project, build_dir, *options):
    return [
        arguments.cmake, "-S", project, "-B", build_dir, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_CXX_COMPILER={arguments.compiler}", f"-DCMAKE_PREFIX_PATH={prefix_of(arguments)}",
        "-DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF", *options,
    ]  # fmt: skip


def build_and_run(arguments, project, name, *options):
    """Configures `project`, builds it, and runs its program `consumer`, which says the version."""
    build_dir = fresh(arguments.work_dir / name)
    must(configure_command(arguments, project, build_dir, *options))
    must([arguments.cmake, "--build", build_dir])
    check_said(must([build_dir / "consumer"], timeout=120))


def check_said(output):
    if f"allfold {version()}: the sum is right" not in output:
        raise Failure(f"the consumer does not say that allfold {version()} sums right, but:\n{output}")
    print(output.strip())


def prefix(arguments):
    """Configures as a packager would, installs, and compares what is there with what should be."""
    build_dir = fresh(arguments.work_dir / "build")
    root = fresh(prefix_of(arguments))
    developer = [f"-DALLFOLD_BUILD_{part}=OFF" for part in ("TESTS", "BENCH", "EXAMPLES")]
    must(configure_command(arguments, SOURCE_DIR, build_dir, *developer))
    must([arguments.cmake, "--build", build_dir])
    must([arguments.cmake, "--install", build_dir, "--prefix", root])

    include = SOURCE_DIR / "include"
    expected = {p.relative_to(include.parent).as_posix() for p in include.rglob("*") if p.suffix in (".hpp", ".cuh")}
    config = "share/cmake/allfold/allfold"
    expected |= {f"{config}Config.cmake", f"{config}ConfigVersion.cmake", f"{config}Targets.cmake"}
    expected |= {"share/cmake/allfold/AllfoldUcx.cmake"}
    expected |= {"share/licenses/allfold/LICENSE"}
    found = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    if found != expected:
        raise Failure(f"missing: {sorted(expected - found)}, not expected: {sorted(found - expected)}")
    for file in sorted((root / "share").rglob("*.cmake")):
        if str(SOURCE_DIR) in file.read_text(encoding="utf-8"):
            raise Failure(f"{file} names the source tree, so the package could not be moved")
    print(f"{len(found)} files installed")


def consumer(arguments):
    wanted = ".".join(version().split(".")[:2])
    build_and_run(arguments, HERE / "consumer", "consumer", f"-DWANTED_VERSION={wanted}")


def wrong_version(arguments):
    """Another minor version or a later patch is refused by find_package; the control is the version itself."""
    major, minor, patch = map(int, version().split("."))
    build_dir = arguments.work_dir / "wrong_version"
    for wanted, accepted in [
        (f"{major}.{minor}.{patch}", True),
        (f"{major}.{minor + 1}", False),
        (f"{major + 1}.0", False),
        (f"{major}.{minor}.{patch + 1}", False),
    ]:
        fresh(build_dir)
        command = configure_command(arguments, HERE / "consumer", build_dir, f"-DWANTED_VERSION={wanted}")
        status, output = run(command)
        refused = "compatible with requested version" in re.sub(r"\s+", " ", output)
        if (status == 0) != accepted or refused == accepted:
            raise Failure(f"find_package(allfold {wanted}) of {version()}; accepted should be {accepted}:\n{output}")
        print(f"{wanted}: {'accepted' if accepted else 'refused'}")


def plain_gxx(arguments):
    """No build system at all: one command with -I."""
    program = fresh(arguments.work_dir / "plain_gxx") / "consumer"
    include = prefix_of(arguments) / "include"
    must([arguments.compiler, "-std=c++20", "-pthread", f"-I{include}", HERE / "consumer/main.cpp", "-o", program])
    check_said(must([program], timeout=120))


def subdirectory(arguments):
    build_and_run(arguments, HERE / "subdirectory", "subdirectory", f"-DALLFOLD_SOURCE_DIR={SOURCE_DIR}")


def ucx(arguments):
    if not arguments.ucx:
        skip("there is no UCX")
    wanted = ".".join(version().split(".")[:2])
    build_and_run(arguments, HERE / "ucx", "ucx", f"-DWANTED_VERSION={wanted}")


def cuda(arguments):
    if not arguments.nvcc:
        skip("there is no nvcc")
    wanted = ".".join(version().split(".")[:2])
    build_and_run(
        arguments, HERE / "cuda", "cuda", f"-DWANTED_VERSION={wanted}", f"-DCMAKE_CUDA_COMPILER={arguments.nvcc}",
        "-DCMAKE_CUDA_ARCHITECTURES=90", "-DCMAKE_CUDA_FLAGS=-std=c++20",
    )  # fmt: skip


def body():
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=["prefix", "consumer", "wrong_version", "plain_gxx", "subdirectory", "cuda", "ucx"])
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--cmake", default="cmake")
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--nvcc", default="")
    parser.add_argument("--ucx", action="store_true")
    arguments = parser.parse_args()
    arguments.work_dir = arguments.work_dir.resolve()
    globals()[arguments.step](arguments)


main(body)
