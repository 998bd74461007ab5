// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <span>
#include <string>

#include <allfold/base/config.hpp>
#include <allfold/base/error.hpp>
#include <allfold/policy/options.hpp>

#include <support/fields.hpp>
#include <support/oracle.hpp>
#include <support/ranks.hpp>

namespace allfold_test {

/// Checks every byte of an all-reduce's result against `want(operands)`, that the input is as it was unless the call
/// was in place, and that the elements around the output are canaries still.
template <class T, class Want>
void check_result(const Fields<T>& fields, std::size_t count, std::uint64_t seed, int rank, int world_size,
                  const std::string& head, Want&& want) {
  const std::span<T> in = fields.in.subspan(fields.in_at, count);
  const std::span<T> out = fields.out.subspan(fields.out_at, count);
  T operands[allfold::max_window_ranks];
  for (std::size_t i = 0; i < count; ++i) {
    for (int r = 0; r < world_size; ++r) operands[r] = element<T>(seed, r, i);
    const T right = want(std::span<const T>(operands, static_cast<std::size_t>(world_size)));
    if (!same_bytes(out[i], right)) {
      throw_failure(allfold::concat({head, "element ", i, " is ", bytes_text(out[i]), ", not ", bytes_text(right)}),
                    __FILE__, __LINE__);
    }
    if (!fields.in_place() && !same_bytes(in[i], operands[rank])) {
      throw_failure(allfold::concat({head, "input element ", i, " was changed"}), __FILE__, __LINE__);
    }
  }
  const std::size_t end = std::min(fields.out.size(), fields.out_at + count + guard_elems);
  for (std::size_t i = fields.out_at - std::min(fields.out_at, guard_elems); i < end; ++i) {
    const bool outside = i < fields.out_at || i >= fields.out_at + count;
    if (outside && !same_bytes(fields.out[i], canary<T>())) {
      throw_failure(allfold::concat({head, "wrote to element ", i, "; the output has elements ", fields.out_at, " to ",
                                     fields.out_at + count}),
                    __FILE__, __LINE__);
    }
  }
}

/// All-reduces `count` elements made from `seed`, and checks the result: the fold in ascending rank order, or that of
/// the mesh where the options ask for it.
template <class T, class Comm, class Op>
void check_all_reduce(Comm& comm, const Op& op, const Fields<T>& fields, std::size_t count, std::uint64_t seed,
                      const allfold::CallOptions& options) {
  const std::span<T> in = fields.in.subspan(fields.in_at, count);
  const std::span<T> out = fields.out.subspan(fields.out_at, count);
  const std::size_t first = fields.out_at - std::min(fields.out_at, guard_elems);
  const std::size_t end = std::min(fields.out.size(), fields.out_at + count + guard_elems);
  std::fill(fields.out.begin() + static_cast<std::ptrdiff_t>(first),
            fields.out.begin() + static_cast<std::ptrdiff_t>(end), canary<T>());
  for (std::size_t i = 0; i < count; ++i) in[i] = element<T>(seed, comm.rank(), i);

  const std::string head = allfold::concat({allfold::type_name<T>(), " ", allfold::operator_name<Op>(), ", count ",
                                            count, ", seed ", seed, fields.in_place() ? ", in place: " : ": "});
  try {
    if (fields.in_place()) {
      comm.all_reduce(out, op, options);
    } else {
      comm.all_reduce(in, out, op, options);
    }
  } catch (const allfold::UsageError&) {
    throw;
  } catch (const std::exception& error) {
    throw_failure(head + error.what(), __FILE__, __LINE__);
  }
  const bool mesh = options.algorithm == allfold::Algorithm::hybrid_cube_mesh;
  check_result<T>(fields, count, seed, comm.rank(), comm.world_size(), head, [&](std::span<const T> operands) {
    return mesh ? expected_of_mesh<T>(op, operands) : expected<T>(op, operands);
  });
}

/// All-reduces of several sizes on private memory, in place and not.
template <class T, class Comm, class Op>
void check_counts(Comm& comm, const Op& op, std::initializer_list<std::size_t> counts, std::uint64_t seed) {
  const std::size_t room = std::max(counts) + 2 * guard_elems;
  PrivateField<T> a(room);
  PrivateField<T> b(room);
  const allfold::CallOptions options;
  for (const std::size_t count : counts) {
    check_all_reduce<T>(comm, op, {a.span(), b.span(), guard_elems, guard_elems}, count, seed + count, options);
    check_all_reduce<T>(comm, op, {a.span(), a.span(), guard_elems, guard_elems}, count, seed + count, options);
  }
}

}  // namespace allfold_test
