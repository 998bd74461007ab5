// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <allfold/base/config.hpp>
#include <allfold/policy/link_matrix.hpp>

namespace allfold {

/// The all-reduce algorithms of symmetric memory, named for their motion. `none` asks for the communicator's
/// fallback: two_shot in chunks, at any size.
enum class Algorithm : std::uint8_t {
  none,
  one_shot,
  one_shot_packet,
  two_shot,
  two_shot_packet,
  hybrid_cube_mesh,
  one_shot_push,
  two_shot_push
};

inline constexpr Algorithm all_algorithms[] = {
    Algorithm::none,          Algorithm::one_shot,        Algorithm::one_shot_packet,
    Algorithm::two_shot,      Algorithm::two_shot_packet, Algorithm::hybrid_cube_mesh,
    Algorithm::one_shot_push, Algorithm::two_shot_push};

constexpr std::string_view name(Algorithm algorithm) noexcept {
  switch (algorithm) {
    case Algorithm::none: return "none";
    case Algorithm::one_shot: return "one_shot";
    case Algorithm::one_shot_packet: return "one_shot_packet";
    case Algorithm::two_shot: return "two_shot";
    case Algorithm::two_shot_packet: return "two_shot_packet";
    case Algorithm::hybrid_cube_mesh: return "hybrid_cube_mesh";
    case Algorithm::one_shot_push: return "one_shot_push";
    case Algorithm::two_shot_push: return "two_shot_push";
  }
  return "?";
}

/// Whether its data travels in packets, each of which tells by itself that it has arrived.
ALLFOLD_HD constexpr bool sends_packets(Algorithm algorithm) noexcept {
  return algorithm == Algorithm::one_shot_packet || algorithm == Algorithm::two_shot_packet;
}

/// A set of algorithms; a structural type, so that a set can be a template argument.
struct AlgorithmSet {
  std::uint8_t bits = 0;

  ALLFOLD_HD static constexpr AlgorithmSet all() noexcept { return {0xff}; }
  ALLFOLD_HD static constexpr AlgorithmSet of(Algorithm algorithm) noexcept {
    return {static_cast<std::uint8_t>(1U << static_cast<unsigned>(algorithm))};
  }
  ALLFOLD_HD constexpr bool contains(Algorithm algorithm) const noexcept { return (bits & of(algorithm).bits) != 0; }

  friend constexpr AlgorithmSet operator|(AlgorithmSet a, AlgorithmSet b) noexcept {
    return {static_cast<std::uint8_t>(a.bits | b.bits)};
  }
  friend constexpr AlgorithmSet operator&(AlgorithmSet a, AlgorithmSet b) noexcept {
    return {static_cast<std::uint8_t>(a.bits & b.bits)};
  }
  friend constexpr bool operator==(AlgorithmSet, AlgorithmSet) = default;
};

/// What a selector is asked: one all-reduce that is about to run. The same on every rank, so that all choose alike.
struct SelectionQuery {
  std::size_t bytes = 0;  ///< count * sizeof(T)
  int world_size = 1;
  TopologyKind topology = TopologyKind::fully_connected;
  bool device = false;     ///< operands lie in GPU memory
  bool symmetric = false;  ///< input and output both lie in symmetric memory
  bool aligned = true;     ///< both start at a multiple of 16 bytes, and `bytes` is one
  /// All of it is whole vectors of 16 bytes on every rank, also where memory was registered: aligned parts, of elements
  /// whose size divides 16.
  bool vectors = true;
  std::size_t buffer_bytes = 0;                 ///< the communicator's staging buffer
  AlgorithmSet possible = AlgorithmSet::all();  ///< what can run this call; `none` always can
};

}  // namespace allfold
