#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a package of the source tree, and builds programs with it.

    packaging_test.py conan|vcpkg WORK_DIR --cmake CMAKE --compiler CXX [--ucx]
"""

import argparse
import json
import os
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


def headers(root):
    found = {p.relative_to(root).as_posix() for p in Path(root).rglob("*") if p.is_file()}
    if not found:
        raise Failure(f"there is no header in {root}")
    return found


def check_headers(root):
    missing = headers(SOURCE_DIR / "include") ^ headers(root)
    if missing:
        raise Failure(f"the package's headers differ from the source tree's: {sorted(missing)}")


def build_and_run(arguments, prefix):
    """Programs that find the package under `prefix`: one of C++ and, where there is UCX, one that uses it."""
    for project in ["consumer", "ucx"] if arguments.ucx else ["consumer"]:
        build_dir = arguments.work_dir / project
        must(
            [arguments.cmake, "-S", HERE.parent / "install" / project, "-B", build_dir, "-G", "Ninja",
             "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_CXX_COMPILER={arguments.compiler}", f"-DCMAKE_PREFIX_PATH={prefix}",
             f"-DWANTED_VERSION={version()}"]
        )  # fmt: skip
        must([arguments.cmake, "--build", build_dir])
        print(must([build_dir / "consumer"], timeout=120).strip())


def conan(arguments):
    program = shutil.which("conan")
    status, output = run([program, "--version"]) if program else (1, "")
    match = re.search(r"version (\d+)\.", output)
    if status != 0 or not match or int(match.group(1)) < 2:
        skip("there is no Conan 2")
    home = arguments.work_dir / "home"
    # No remote: what the package needs is in this tree.
    environment = {"CONAN_HOME": str(home), "CXX": str(arguments.compiler)}
    must([program, "profile", "detect"], env=environment)
    must([program, "remote", "disable", "*"], env=environment)
    settings = ["-s", "compiler.cppstd=20", "-s", "os=Linux"]
    print(must([program, "create", SOURCE_DIR / "packaging/conan", *settings], env=environment))
    old = ["-s", "compiler.cppstd=17"]
    status, output = run([program, "create", SOURCE_DIR / "packaging/conan", *old], env=environment)
    if status == 0 or "cppstd" not in output:
        raise Failure(f"the recipe should refuse C++17:\n{output}")

    reference = f"allfold/{version()}"
    listing = json.loads(must_json([program, "list", f"{reference}:*", "--format=json"], environment))
    packages = [
        package
        for revision in listing["Local Cache"][reference]["revisions"].values()
        for package in revision["packages"]
    ]
    if len(packages) != 1:
        raise Failure(f"a header-only package is one binary for every setting, not {packages}")
    folder = must([program, "cache", "path", f"{reference}:{packages[0]}"], env=environment).split()[-1]
    check_headers(Path(folder) / "include")
    if not (Path(folder) / "licenses/LICENSE").is_file():
        raise Failure("the package has no licence")
    print(f"{reference}: one package, {len(headers(Path(folder) / 'include'))} headers")

    generated = arguments.work_dir / "generated"
    install = [program, "install", f"--requires={reference}", "-g", "CMakeDeps", f"--output-folder={generated}"]
    must([*install, *settings], env=environment)
    build_and_run(arguments, generated)


def must_json(command, environment):
    output = must(command, env=environment)
    return output[output.index("{") : output.rindex("}") + 1]


def vcpkg(arguments):
    """The port's steps with a stand-in for vcpkg's functions, then a program that finds what they made."""
    port = SOURCE_DIR / "packaging/vcpkg/allfold"
    manifest = json.loads((port / "vcpkg.json").read_text(encoding="utf-8"))
    if manifest["version"] != version():
        raise Failure(f"vcpkg.json says version {manifest['version']}, version.hpp {version()}")
    package = arguments.work_dir / "package"
    must(
        [arguments.cmake, f"-DPORT_DIR={port}", f"-DPACKAGES_DIR={package}", f"-DWORK_DIR={arguments.work_dir}/build",
         f"-DCXX={arguments.compiler}", "-P", HERE.parent / "install/vcpkg_shim.cmake"]
    )  # fmt: skip
    check_headers(package / "include")
    modules = {"allfoldConfig.cmake", "allfoldConfigVersion.cmake", "allfoldTargets.cmake", "AllfoldUcx.cmake"}
    expected = {"copyright", "usage"} | modules
    found = {p.relative_to(package / "share/allfold").as_posix() for p in (package / "share/allfold").rglob("*")}
    if found != expected:
        raise Failure(f"share/allfold: missing {sorted(expected - found)}, not expected {sorted(found - expected)}")
    others = {p.name for p in package.iterdir()} | {f"share/{p.name}" for p in (package / "share").iterdir()}
    if others != {"include", "share", "share/allfold"}:
        raise Failure(f"the package holds more than include and share/allfold: {sorted(others)}")
    usage = (package / "share/allfold/usage").read_text(encoding="utf-8")
    for target in ("find_package(allfold CONFIG REQUIRED)", "allfold::allfold", "allfold::cuda", "allfold::ucx"):
        if target not in usage:
            raise Failure(f"usage does not name {target}")

    build_and_run(arguments, package)


def body():
    parser = argparse.ArgumentParser()
    parser.add_argument("manager", choices=["conan", "vcpkg"])
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--cmake", default="cmake")
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--ucx", action="store_true")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work_dir, ignore_errors=True)
    arguments.work_dir = arguments.work_dir.resolve()
    os.makedirs(arguments.work_dir)
    globals()[arguments.manager](arguments)


main(body)
