# SPDX-License-Identifier: Apache-2.0
# An overlay port, for `vcpkg install allfold --overlay-ports=<this tree>/packaging/vcpkg`: it packages the tree that it
# lies in, so there is no archive to download and no checksum to keep.
set(VCPKG_BUILD_TYPE release) # headers are the same in a debug build
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS -DALLFOLD_BUILD_TESTS=OFF -DALLFOLD_BUILD_BENCH=OFF -DALLFOLD_BUILD_EXAMPLES=OFF -DALLFOLD_INSTALL=ON)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH share/cmake/allfold)

file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/lib" "${CURRENT_PACKAGES_DIR}/share/licenses")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
