# SPDX-License-Identifier: Apache-2.0
# What the targets that Conan makes lack: the language standard, and allfold::ucx where the machine has UCX.
target_compile_features(allfold::allfold INTERFACE cxx_std_20)
if("cuda_std_20" IN_LIST CMAKE_CUDA_COMPILE_FEATURES)
  target_compile_features(allfold::cuda INTERFACE cuda_std_20)
endif()
include("${CMAKE_CURRENT_LIST_DIR}/AllfoldUcx.cmake")
allfold_find_ucx()
