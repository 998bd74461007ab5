// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The macros of code that launches kernels.

/// What takes a kernel or gives one: not to be shared between a program and its libraries. Each may have a CUDA runtime
/// of its own, which knows its own kernels alone.
#define ALLFOLD_HIDDEN __attribute__((visibility("hidden")))

/// A kernel: a program and its libraries may each have their own of one name.
#define ALLFOLD_KERNEL __global__ ALLFOLD_HIDDEN

/// Around templates of kernels: for a type of an anonymous namespace nvcc makes the kernel local, and says that it then
/// ignores the visibility.
#define ALLFOLD_KERNELS_BEGIN _Pragma("nv_diagnostic push") _Pragma("nv_diag_suppress 1407")
#define ALLFOLD_KERNELS_END _Pragma("nv_diagnostic pop")

#define ALLFOLD_DEVICE __device__ __forceinline__

/// The namespace of what launches: named for the architectures it is compiled for, so that two libraries that were
/// compiled for different ones can both include allfold.
#if defined(__CUDA_ARCH_LIST__)
#define ALLFOLD_ARCH_NAME_1(a) sm_##a
#define ALLFOLD_ARCH_NAME_2(a, b) sm_##a##_##b
#define ALLFOLD_ARCH_NAME_3(a, b, c) sm_##a##_##b##_##c
#define ALLFOLD_ARCH_NAME_4(a, b, c, d) sm_##a##_##b##_##c##_##d
#define ALLFOLD_ARCH_NAME_5(a, b, c, d, e) sm_##a##_##b##_##c##_##d##_##e
#define ALLFOLD_ARCH_NAME_6(a, b, c, d, e, f) sm_##a##_##b##_##c##_##d##_##e##_##f
#define ALLFOLD_ARCH_NAME_7(a, b, c, d, e, f, ...) sm_##a##_##b##_##c##_##d##_##e##_##f##_more
#define ALLFOLD_ARCH_PICK(a, b, c, d, e, f, g, h, i, j, k, l, name, ...) name
#define ALLFOLD_ARCH_NAME_OF(...)                                                                                    \
  ALLFOLD_ARCH_PICK(__VA_ARGS__, ALLFOLD_ARCH_NAME_7, ALLFOLD_ARCH_NAME_7, ALLFOLD_ARCH_NAME_7, ALLFOLD_ARCH_NAME_7, \
                    ALLFOLD_ARCH_NAME_7, ALLFOLD_ARCH_NAME_7, ALLFOLD_ARCH_NAME_6, ALLFOLD_ARCH_NAME_5,              \
                    ALLFOLD_ARCH_NAME_4, ALLFOLD_ARCH_NAME_3, ALLFOLD_ARCH_NAME_2, ALLFOLD_ARCH_NAME_1, )            \
  (__VA_ARGS__)
#define ALLFOLD_ARCH_NAMESPACE ALLFOLD_ARCH_NAME_OF(__CUDA_ARCH_LIST__)
#else
#define ALLFOLD_ARCH_NAMESPACE sm_any
#endif
