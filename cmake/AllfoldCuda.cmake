# SPDX-License-Identifier: Apache-2.0
# Included where ALLFOLD_CUDA is on: the CUDA language, as C++20.
enable_language(CUDA)

if("cuda_std_20" IN_LIST CMAKE_CUDA_COMPILE_FEATURES)
  target_compile_features(allfold_developer INTERFACE cuda_std_20)
elseif(NOT CMAKE_CUDA_FLAGS MATCHES "std=")
  # A CMake older than the toolkit does not know that its nvcc can do C++20.
  string(APPEND CMAKE_CUDA_FLAGS " -std=c++20")
endif()

target_compile_options(allfold_developer INTERFACE "$<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:-Xcompiler=-Wall,-Wextra>")
