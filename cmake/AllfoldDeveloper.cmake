# SPDX-License-Identifier: Apache-2.0
# What this project's own programs are built with; nothing of it reaches a consumer.

# Warnings become errors only where CMAKE_COMPILE_WARNING_AS_ERROR says so: the presets do.
add_library(allfold_developer INTERFACE)
target_compile_options(allfold_developer INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra>)
target_link_libraries(allfold_developer INTERFACE allfold::allfold)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
  # "text" + std::string, optimized, brings a false warning about memcpy (GCC bug 105651, mended in 13.3 and 14).
  target_compile_options(allfold_developer INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()

if(PROJECT_IS_TOP_LEVEL)
  if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES AND NOT CMAKE_CXX_FLAGS)
    set(CMAKE_BUILD_TYPE Release)
  endif()
  set(CMAKE_CXX_EXTENSIONS OFF)
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
  if(NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER AND NOT DEFINED ENV{CMAKE_CXX_COMPILER_LAUNCHER})
    include("${CMAKE_CURRENT_LIST_DIR}/AllfoldCcache.cmake")
  endif()
endif()

if(ALLFOLD_CUDA)
  include("${CMAKE_CURRENT_LIST_DIR}/AllfoldCuda.cmake")
endif()
