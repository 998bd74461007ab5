// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

#include <allfold/base/concat.hpp>
#include <allfold/base/config.hpp>
#include <allfold/base/source_location.hpp>

namespace allfold {

/// The kind of an Error; one for each class below.
enum class ErrorCode : int { usage = 1, system, cuda, ucx, peer, timeout, mismatch };

/// Who says an error, and doing what: the head of every message. Implicit from an operation's name, so that a
/// check which belongs to no rank reads `throw UsageError("environment", {...})`.
class Where {
 public:
  Where(const char* operation, SourceLocation location = SourceLocation::current())
      : operation_(operation), location_(location) {}
  Where(std::string_view operation, int rank, int world_size, SourceLocation location = SourceLocation::current())
      : operation_(operation), rank_(rank), world_size_(world_size), location_(location) {}

  std::string_view operation() const noexcept { return operation_; }
  int rank() const noexcept { return rank_; }
  int world_size() const noexcept { return world_size_; }
  SourceLocation location() const noexcept { return location_; }

  /// `allfold: rank 3/8: all_reduce: `, or `allfold: environment: ` where there is no rank.
  ALLFOLD_COLD std::string head() const {
    return rank_ < 0 ? concat({"allfold: ", operation_, ": "})
                     : concat({"allfold: rank ", rank_, "/", world_size_, ": ", operation_, ": "});
  }

 private:
  std::string_view operation_;
  int rank_ = -1;
  int world_size_ = 0;
  SourceLocation location_;
};

/// Every exception of the library. The message reads
/// `allfold: rank 3/8: all_reduce: what happened; expected X, got Y; try Z`.
class Error : public std::runtime_error {
 public:
  ALLFOLD_COLD Error(ErrorCode code, const Where& where, TextPieces what)
      : std::runtime_error(where.head() + concat(what)),
        location_(where.location()),
        code_(code),
        rank_(where.rank()) {}

  ErrorCode code() const noexcept { return code_; }
  /// The rank that says so; -1 where it has none yet.
  int rank() const noexcept { return rank_; }
  /// The line of the library that says so.
  SourceLocation location() const noexcept { return location_; }

 private:
  SourceLocation location_;
  ErrorCode code_;
  int rank_;
};

/// The caller's arguments, options or environment are wrong; the message says what to write instead.
class UsageError : public Error {
 public:
  ALLFOLD_COLD UsageError(const Where& where, TextPieces what) : Error(ErrorCode::usage, where, what) {}
};

/// The operating system refused; `number()` is its errno.
class SystemError : public Error {
 public:
  ALLFOLD_COLD SystemError(const Where& where, int number, TextPieces what)
      : Error(ErrorCode::system, where, {concat(what), ": ", std::strerror(number), " (errno ", number, ")"}),
        number_(number) {}

  int number() const noexcept { return number_; }

 private:
  int number_;
};

/// CUDA refused; `number()` is its cudaError_t or CUresult.
class CudaError : public Error {
 public:
  /// `name`: of the error, as CUDA calls it.
  ALLFOLD_COLD CudaError(const Where& where, int number, std::string_view name, TextPieces what)
      : Error(ErrorCode::cuda, where, {concat(what), ": ", name, " (CUDA error ", number, ")"}), number_(number) {}

  int number() const noexcept { return number_; }

 private:
  int number_;
};

/// A peer is gone, or broke the protocol; `source_rank()` says which.
class PeerError : public Error {
 public:
  ALLFOLD_COLD PeerError(const Where& where, int source_rank, TextPieces what)
      : Error(ErrorCode::peer, where, what), source_rank_(source_rank) {}

  /// The rank to blame; -1 if it is not known.
  int source_rank() const noexcept { return source_rank_; }

 private:
  int source_rank_;
};

/// A deadline passed; `source_rank()` is the rank that did not arrive.
class TimeoutError : public Error {
 public:
  ALLFOLD_COLD TimeoutError(const Where& where, int source_rank, TextPieces what)
      : Error(ErrorCode::timeout, where, what), source_rank_(source_rank) {}

  /// The rank that did not arrive; -1 if it is not known.
  int source_rank() const noexcept { return source_rank_; }

 private:
  int source_rank_;
};

/// Ranks called different things; the message shows both sides.
class MismatchError : public Error {
 public:
  ALLFOLD_COLD MismatchError(const Where& where, int source_rank, TextPieces what)
      : Error(ErrorCode::mismatch, where, what), source_rank_(source_rank) {}

  /// The rank whose call differs from this rank's.
  int source_rank() const noexcept { return source_rank_; }

 private:
  int source_rank_;
};

}  // namespace allfold
