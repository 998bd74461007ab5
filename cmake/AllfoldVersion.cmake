# SPDX-License-Identifier: Apache-2.0

# Reads `inline constexpr int version_<part> = <number>;` out of version.hpp into `result`, as major.minor.patch.
function(allfold_read_version header result)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${header}")
  file(READ "${header}" text)
  set(parts "")
  foreach(part IN ITEMS major minor patch)
    if(NOT text MATCHES "constexpr int version_${part} = ([0-9]+);")
      message(FATAL_ERROR "allfold: ${header} does not define version_${part}")
    endif()
    list(APPEND parts "${CMAKE_MATCH_1}")
  endforeach()
  list(JOIN parts "." version)
  set(${result} "${version}" PARENT_SCOPE)
endfunction()
