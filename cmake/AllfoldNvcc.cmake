# SPDX-License-Identifier: Apache-2.0

# Sets ALLFOLD_NVCC to an nvcc that compiles C++20 together with the host's compiler, or to nothing, for the tests that
# run nvcc themselves. Found, never required: a toolkit that is too old for the compiler beside it counts as none.
function(allfold_find_nvcc)
  if(DEFINED ALLFOLD_NVCC)
    return()
  endif()
  find_program(ALLFOLD_NVCC_PROGRAM nvcc PATHS /usr/local/cuda/bin)
  mark_as_advanced(ALLFOLD_NVCC_PROGRAM)
  set(nvcc "")
  if(ALLFOLD_NVCC_PROGRAM)
    set(probe "${PROJECT_BINARY_DIR}/CMakeFiles/nvcc_probe.cu")
    file(WRITE "${probe}" "#include <concepts>\ntemplate <std::integral T> T f(T x);\nint main() {}\n")
    execute_process(
      COMMAND "${ALLFOLD_NVCC_PROGRAM}" -std=c++20 -arch=sm_90 -c "${probe}" -o "${probe}.o"
      RESULT_VARIABLE status
      OUTPUT_QUIET ERROR_QUIET)
    if(status EQUAL 0)
      set(nvcc "${ALLFOLD_NVCC_PROGRAM}")
    else()
      message(STATUS "allfold: ${ALLFOLD_NVCC_PROGRAM} does not compile C++20 here; "
                     "the tests that need it are left out")
    endif()
  endif()
  set(ALLFOLD_NVCC "${nvcc}" CACHE FILEPATH "An nvcc for the tests that run it; empty: none")
endfunction()
