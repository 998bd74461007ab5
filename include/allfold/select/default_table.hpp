// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>

#include <allfold/policy/algorithm.hpp>
#include <allfold/select/tuning_table.hpp>

namespace allfold {

namespace detail {

/// For CPU ranks. World sizes between these take the nearest one's rows. hybrid_cube_mesh is for ranks linked so, where
/// the rows of the others do not apply; there its row is IntraNodeComm's threshold, not a measured one.
/// Source: bench/results/host-tuning.txt.
inline constexpr TuningRow default_tuning_rows[] = {
    {2, true, 512, Algorithm::one_shot_packet},
    {2, true, std::size_t{8} << 10, Algorithm::one_shot},
    {2, true, unlimited_bytes, Algorithm::two_shot},
    {2, false, std::size_t{64} << 10, Algorithm::one_shot_packet},
    {2, false, unlimited_bytes, Algorithm::two_shot_packet},
    {4, true, std::size_t{2} << 10, Algorithm::one_shot_packet},
    {4, true, unlimited_bytes, Algorithm::two_shot},
    {4, false, std::size_t{4} << 10, Algorithm::one_shot_packet},
    {4, false, unlimited_bytes, Algorithm::two_shot_packet},
    {8, true, std::size_t{1} << 10, Algorithm::one_shot_packet},
    {8, true, std::size_t{256} << 10, Algorithm::hybrid_cube_mesh},
    {8, true, unlimited_bytes, Algorithm::two_shot},
    {8, false, std::size_t{2} << 10, Algorithm::one_shot_packet},
    {8, false, std::size_t{256} << 10, Algorithm::hybrid_cube_mesh},
    {8, false, unlimited_bytes, Algorithm::two_shot_packet},
};

/// For GPUs linked by NVLink. Two and four have wide packets; the others do without.
/// Source: bench/results/h200-tuning.txt, docs/decisions/0007-device-constants.md.
inline constexpr TuningRow device_tuning_rows[] = {
    {2, true, std::size_t{16} << 20, Algorithm::one_shot_packet},
    {2, true, unlimited_bytes, Algorithm::two_shot_push},
    {2, false, std::size_t{640} << 10, Algorithm::one_shot_packet},
    {2, false, std::size_t{1} << 20, Algorithm::two_shot_packet},
    {2, false, std::size_t{8} << 20, Algorithm::one_shot_push},
    {2, false, unlimited_bytes, Algorithm::two_shot_push},
    {3, true, std::size_t{512} << 10, Algorithm::one_shot_packet},
    {3, true, std::size_t{2} << 20, Algorithm::two_shot_packet},
    {3, true, unlimited_bytes, Algorithm::two_shot_push},
    {3, false, std::size_t{512} << 10, Algorithm::one_shot_packet},
    {3, false, std::size_t{4} << 20, Algorithm::two_shot_packet},
    {3, false, unlimited_bytes, Algorithm::two_shot_push},
    {4, true, std::size_t{192} << 10, Algorithm::one_shot_packet},
    {4, true, std::size_t{12} << 20, Algorithm::two_shot_packet},
    {4, true, unlimited_bytes, Algorithm::two_shot_push},
    {4, false, std::size_t{192} << 10, Algorithm::one_shot_packet},
    {4, false, std::size_t{3} << 20, Algorithm::two_shot_packet},
    {4, false, unlimited_bytes, Algorithm::two_shot_push},
    {5, true, std::size_t{128} << 10, Algorithm::one_shot_packet},
    {5, true, std::size_t{1} << 20, Algorithm::two_shot_packet},
    {5, true, std::size_t{4} << 20, Algorithm::two_shot},
    {5, true, unlimited_bytes, Algorithm::two_shot_push},
    {5, false, std::size_t{128} << 10, Algorithm::one_shot_packet},
    {5, false, std::size_t{1} << 20, Algorithm::two_shot_packet},
    {5, false, unlimited_bytes, Algorithm::two_shot_push},
    {8, true, std::size_t{64} << 10, Algorithm::one_shot_packet},
    {8, true, std::size_t{256} << 10, Algorithm::hybrid_cube_mesh},
    {8, true, std::size_t{1} << 20, Algorithm::two_shot_packet},
    {8, true, std::size_t{4} << 20, Algorithm::two_shot},
    {8, true, unlimited_bytes, Algorithm::two_shot_push},
    {8, false, std::size_t{64} << 10, Algorithm::one_shot_packet},
    {8, false, std::size_t{256} << 10, Algorithm::hybrid_cube_mesh},
    {8, false, std::size_t{1} << 20, Algorithm::two_shot_packet},
    {8, false, unlimited_bytes, Algorithm::two_shot_push},
};

}  // namespace detail

/// What TunedSelector goes by unless it is given another table. `device`: where operands lie in GPU memory.
constexpr std::span<const TuningRow> default_tuning_table(bool device) noexcept {
  return device ? std::span<const TuningRow>(detail::device_tuning_rows)
                : std::span<const TuningRow>(detail::default_tuning_rows);
}

}  // namespace allfold
