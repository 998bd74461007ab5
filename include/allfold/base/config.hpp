// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The library's macros. None of them changes a class body: a class is token for token the same under g++ and nvcc.

#if defined(__CUDACC__)
/// Marks a function that runs on the host and in kernels.
#define ALLFOLD_HD __host__ __device__
#define ALLFOLD_DO_PRAGMA(text) _Pragma(#text)
/// Before a template whose callee decides on which side it runs: quiets nvcc's check of the side not taken.
#define ALLFOLD_ANY_SIDE ALLFOLD_DO_PRAGMA(nv_exec_check_disable)
/// Around templates of that kind whose lambdas call it too: ALLFOLD_ANY_SIDE does not reach into lambdas.
#define ALLFOLD_ANY_SIDE_BEGIN              \
  ALLFOLD_DO_PRAGMA(nv_diagnostic push)     \
  ALLFOLD_DO_PRAGMA(nv_diag_suppress 20011) \
  ALLFOLD_DO_PRAGMA(nv_diag_suppress 20013) \
  ALLFOLD_DO_PRAGMA(nv_diag_suppress 20014) ALLFOLD_DO_PRAGMA(nv_diag_suppress 20015)
#define ALLFOLD_ANY_SIDE_END ALLFOLD_DO_PRAGMA(nv_diagnostic pop)
#else
#define ALLFOLD_HD
#define ALLFOLD_ANY_SIDE
#define ALLFOLD_ANY_SIDE_BEGIN
#define ALLFOLD_ANY_SIDE_END
#endif

/// Marks a function of the error path: kept out of line and compiled for size, so that hot callers stay small
/// and a translation unit that includes allfold compiles fast.
#define ALLFOLD_COLD __attribute__((noinline, cold))

/// Marks a function that is not to be repeated in its callers.
#define ALLFOLD_NOINLINE __attribute__((noinline))

/// Before a loop whose iterations do not depend on one another (in-place operands included).
#if defined(__clang__)
#define ALLFOLD_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__CUDACC__)
#define ALLFOLD_INDEPENDENT
#elif defined(__GNUC__)
#define ALLFOLD_INDEPENDENT _Pragma("GCC ivdep")
#else
#define ALLFOLD_INDEPENDENT
#endif

namespace allfold {

/// The most ranks that one window spans; larger worlds are what message transports are for.
inline constexpr int max_window_ranks = 8;

/// Two addresses this far apart do not share a cache line.
inline constexpr unsigned cache_line_bytes = 64;

}  // namespace allfold
