# SPDX-License-Identifier: Apache-2.0
# Compiles through ccache where it is installed and works: without a folder that it may write to, it fails.
find_program(ALLFOLD_CCACHE ccache)
mark_as_advanced(ALLFOLD_CCACHE)
if(ALLFOLD_CCACHE)
  set(probe "${PROJECT_BINARY_DIR}/CMakeFiles/ccache_probe.cpp")
  file(WRITE "${probe}" "int main() {}\n")
  execute_process(
    COMMAND "${ALLFOLD_CCACHE}" "${CMAKE_CXX_COMPILER}" -c "${probe}" -o "${probe}.o"
    RESULT_VARIABLE status
    OUTPUT_QUIET ERROR_QUIET)
  if(status EQUAL 0)
    set(CMAKE_CXX_COMPILER_LAUNCHER "${ALLFOLD_CCACHE}")
    set(CMAKE_CUDA_COMPILER_LAUNCHER "${ALLFOLD_CCACHE}")
  else()
    message(STATUS "allfold: ${ALLFOLD_CCACHE} does not work here and is not used")
  endif()
endif()
