# SPDX-License-Identifier: Apache-2.0
import os
import shlex

from conan import ConanFile
from conan.tools.build import can_run
from conan.tools.layout import basic_layout


class AllfoldTestPackage(ConanFile):
    settings = "os", "arch", "compiler", "build_type"
    test_type = "explicit"

    def requirements(self):
        self.requires(self.tested_reference_str)

    def layout(self):
        basic_layout(self)

    def _program(self):
        return os.path.join(self.build_folder, "test_package")

    def build(self):
        # Plain g++: a header-only package needs no generator and no build system.
        info = self.dependencies["allfold"].cpp_info.aggregated_components()
        command = [os.environ.get("CXX", "g++"), "-std=c++20", os.path.join(self.source_folder, "main.cpp")]
        command += [f"-I{directory}" for directory in info.includedirs]
        command += [f"-l{library}" for library in info.system_libs]
        self.run(shlex.join(command + ["-o", self._program()]))

    def test(self):
        if can_run(self):
            self.run(shlex.quote(self._program()), env="conanrun")
