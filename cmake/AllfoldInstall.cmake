# SPDX-License-Identifier: Apache-2.0
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# Headers only, so the package belongs to no architecture: share/, not lib/.
set(allfold_config_dir "${CMAKE_INSTALL_DATADIR}/cmake/allfold")

install(TARGETS allfold allfold_cuda EXPORT allfoldTargets FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT allfoldTargets NAMESPACE allfold:: DESTINATION "${allfold_config_dir}")

configure_package_config_file(
  "${CMAKE_CURRENT_LIST_DIR}/allfoldConfig.cmake.in" "${PROJECT_BINARY_DIR}/allfoldConfig.cmake"
  INSTALL_DESTINATION "${allfold_config_dir}"
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(
  "${PROJECT_BINARY_DIR}/allfoldConfigVersion.cmake"
  VERSION "${PROJECT_VERSION}"
  COMPATIBILITY SameMinorVersion
  ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/allfoldConfig.cmake" "${PROJECT_BINARY_DIR}/allfoldConfigVersion.cmake"
              "${CMAKE_CURRENT_LIST_DIR}/AllfoldUcx.cmake"
        DESTINATION "${allfold_config_dir}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/allfold")
