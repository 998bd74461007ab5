// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <allfold/algo/symmetric/call.hpp>
#include <allfold/base/error.hpp>
#include <allfold/failure_report.hpp>
#include <allfold/memory/call_record.hpp>
#include <allfold/memory/channel.hpp>
#include <allfold/memory/control_block.hpp>
#include <allfold/policy/algorithm.hpp>
#include <allfold/policy/options.hpp>
#include <allfold/policy/tracer.hpp>
#include <allfold/topology/detect.hpp>
#include <allfold/topology/overrides.hpp>

namespace allfold {

/// What a communicator knows of itself, whatever its policies are.
struct Session {
  int rank = 0;
  int world_size = 1;
  Options options;
  TopologyKind topology = TopologyKind::fully_connected;
  MeshPlace mesh;
  bool fast_path = true;
  std::string store_prefix;             ///< of this communicator's keys
  std::uint32_t allocations = 0;        ///< attempted; collective, so the same on every rank
  std::optional<FailureReport> failed;  ///< set once; every later call says it again

  Where where(std::string_view operation, SourceLocation location = SourceLocation::current()) const {
    return Where(operation, rank, world_size, location);
  }
};

/// This rank's place in the mesh, and what links there are. Eight fully connected ranks can act as a mesh too.
ALLFOLD_COLD inline void place_in_topology(Session& session, const LinkMatrix& links, TopologyOverrides overrides) {
  session.topology = overrides.apply(classify(links));
  session.fast_path = !overrides.disable_fast_path;
  if (session.world_size != HybridCubeMesh::ranks || session.topology == TopologyKind::unknown) return;
  const int me = session.rank;
  session.mesh = {.quad = me < 4 ? 0x0fU : 0xf0U, .partner = me ^ 4, .first_quad = me < 4};
  if (const std::optional<HybridCubeMesh> mesh = find_hybrid_cube_mesh(links)) {
    RankMask quad = only_rank(me);
    for (const std::int8_t mate : mesh->mates[me]) quad |= only_rank(mate);
    session.mesh = {.quad = quad, .partner = mesh->partner[me], .first_quad = mesh->quad[me] == 0};
  }
}

/// The algorithms that can run elements of that size, with that topology. `largest_packet_element`: the transport's.
inline AlgorithmSet possible_algorithms(const Session& session, std::size_t element_bytes,
                                        std::size_t largest_packet_element) noexcept {
  AlgorithmSet set = AlgorithmSet::of(Algorithm::none);
  if (session.topology == TopologyKind::fully_connected) {
    set = set | AlgorithmSet::of(Algorithm::one_shot) | AlgorithmSet::of(Algorithm::two_shot);
    if (element_bytes <= largest_packet_element) {
      set = set | AlgorithmSet::of(Algorithm::one_shot_packet) | AlgorithmSet::of(Algorithm::two_shot_packet) |
            AlgorithmSet::of(Algorithm::one_shot_push) | AlgorithmSet::of(Algorithm::two_shot_push);
    }
  }
  if (session.mesh.quad != 0) set = set | AlgorithmSet::of(Algorithm::hybrid_cube_mesh);
  return set;
}

/// Throws UsageError unless [in, in + count) and [out, out + out_count) can be an all-reduce's arguments.
ALLFOLD_COLD inline void throw_bad_buffers(const Where& where, const void* in, std::size_t count, const void* out,
                                           std::size_t out_count) {
  if (count != out_count) {
    throw UsageError(where, {"the input has ", count, " elements and the output ", out_count,
                             "; expected as many in both; pass spans of the same size"});
  }
  if (in == nullptr || out == nullptr) {
    throw UsageError(where, {"the ", in == nullptr ? "input" : "output", " is null; expected ", count,
                             " elements; pass memory that holds them"});
  }
  throw UsageError(
      where,
      {"input and output overlap; expected the same buffer (in place) or disjoint ones; try a copy of the input"});
}

inline void check_buffers(const Where& where, const void* in, std::size_t count, const void* out, std::size_t out_count,
                          std::size_t element_bytes) {
  const auto a = reinterpret_cast<std::uintptr_t>(in);
  const auto b = reinterpret_cast<std::uintptr_t>(out);
  const std::size_t bytes = count * element_bytes;
  const bool null = count != 0 && (in == nullptr || out == nullptr);
  const bool overlap = a != b && a < b + bytes && b < a + bytes;
  if (count != out_count || null || overlap) throw_bad_buffers(where, in, count, out, out_count);
}

/// Throws UsageError unless elements of that size fit the rounds of staging memory.
inline void check_element_size(const Where& where, std::size_t element_bytes, std::size_t staging_bytes) {
  const std::size_t most = staging_bytes / 2 / cache_line_bytes * cache_line_bytes;
  if (element_bytes <= most) return;
  throw UsageError(where, {"an element has ", element_bytes, " bytes; expected at most ", most,
                           ", half of the staging memory; try a larger Options::buffer_bytes, or smaller elements"});
}

/// The members of a group, as a mask.
ALLFOLD_COLD inline RankMask group_mask(const Where& where, std::span<const int> ranks, int world_size) {
  RankMask mask = 0;
  for (const int r : ranks) {
    if (r < 0 || r >= world_size || has_rank(mask, r)) {
      throw UsageError(where, {"rank ", r, " is ", r < 0 || r >= world_size ? "not one of the world" : "named twice",
                               "; expected distinct ranks from 0 to ", world_size - 1, "; try each member once"});
    }
    mask |= only_rank(r);
  }
  if (!has_rank(mask, where.rank())) {
    throw UsageError(
        where,
        {"this rank is not in the group; expected only its members to call; try adding this rank, or not calling"});
  }
  return mask;
}

/// A call as a tracer is told of it. Its views are of `record`.
inline TraceEvent trace_event(const Session& session, const CallRecord& record, int channel, std::uint32_t sequence,
                              std::size_t element_bytes) noexcept {
  TraceEvent event;
  event.operation = name(record.operation);
  event.type = record.type_name;
  event.reduction = record.reduction_name;
  if (record.operation == Operation::all_reduce) event.algorithm = name(record.algorithm);
  event.count = record.count;
  event.in_bytes = event.out_bytes = record.count * element_bytes;
  event.rank = session.rank;
  event.world_size = session.world_size;
  event.channel = channel;
  event.sequence = sequence;
  return event;
}

[[noreturn]] ALLFOLD_COLD inline void throw_impossible(const Where& where, Algorithm algorithm, bool compiled,
                                                       std::size_t bytes) {
  if (algorithm == Algorithm::none) {
    throw UsageError(where, {"no algorithm that the selector has can run ", bytes,
                             " bytes of these elements here; choose a selector with more candidates"});
  }
  if (!compiled) {
    throw UsageError(where, {"the selector's candidates do not include ", allfold::name(algorithm),
                             ", so it is not compiled; choose a selector that has it"});
  }
  throw UsageError(
      where, {allfold::name(algorithm), " cannot run ", bytes,
              " bytes of these elements on this topology; ask would_choose(), or leave the choice to the selector"});
}

}  // namespace allfold
