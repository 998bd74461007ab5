# SPDX-License-Identifier: Apache-2.0
import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, load
from conan.tools.layout import basic_layout

required_conan_version = ">=2.0"


class AllfoldConan(ConanFile):
    name = "allfold"
    description = "Header-only C++20 collectives for C++ and CUDA programs"
    license = "Apache-2.0"
    topics = ("collectives", "all-reduce", "shared-memory", "cuda", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    no_copy_source = True

    def _source_tree(self):
        return os.path.join(self.recipe_folder, os.pardir, os.pardir)

    def set_version(self):
        # The version stands in version.hpp alone.
        text = load(self, os.path.join(self._source_tree(), "include", "allfold", "version.hpp"))
        parts = [re.search(rf"version_{part} = (\d+);", text).group(1) for part in ("major", "minor", "patch")]
        self.version = ".".join(parts)

    def export_sources(self):
        copy(self, "LICENSE", self._source_tree(), self.export_sources_folder)
        copy(self, "include/*", self._source_tree(), self.export_sources_folder)
        copy(self, "AllfoldUcx.cmake", os.path.join(self._source_tree(), "cmake"), self.export_sources_folder)
        copy(self, "AllfoldConan.cmake", self.recipe_folder, self.export_sources_folder)

    def layout(self):
        basic_layout(self)

    def validate(self):
        if self.settings.get_safe("os") not in (None, "Linux"):
            raise ConanInvalidConfiguration("allfold runs on Linux")
        if self.settings.get_safe("compiler.cppstd"):
            check_min_cppstd(self, 20)

    def package_id(self):
        # Headers are the same for every compiler, architecture and build type.
        self.info.clear()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        include = os.path.join(self.source_folder, "include")
        for pattern in ("*.hpp", "*.cuh"):
            copy(self, pattern, include, os.path.join(self.package_folder, "include"))
        copy(self, "*.cmake", self.source_folder, self._cmake_dir(), keep_path=False)

    def _cmake_dir(self):
        return os.path.join(self.package_folder, "share", "cmake", "allfold")

    def package_info(self):
        self.cpp_info.set_property("cmake_file_name", "allfold")
        # Else the package as a whole would have the name of its first component, which would then link allfold::cuda.
        self.cpp_info.set_property("cmake_target_name", "allfold::all")
        self.cpp_info.set_property("cmake_build_modules", [os.path.join(self._cmake_dir(), "AllfoldConan.cmake")])
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []

        library = self.cpp_info.components["allfold"]
        library.set_property("cmake_target_name", "allfold::allfold")
        library.system_libs = ["pthread"]

        cuda = self.cpp_info.components["cuda"]
        cuda.set_property("cmake_target_name", "allfold::cuda")
        cuda.requires = ["allfold"]

        for component in (library, cuda):
            component.bindirs = []
            component.libdirs = []
