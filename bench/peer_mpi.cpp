// SPDX-License-Identifier: Apache-2.0

/// The MPI side of `allfold_perf --peer`: mpirun starts it, allfold_perf drives it over named pipes. Between turns
/// every rank sleeps in read(2), not in MPI, so that it takes no time from whoever is measured.
///   peer_mpi DIRECTORY CORES

#include "peer_protocol.hpp"

#include <cstdio>
#include <new>

#include <fcntl.h>

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

namespace {

using bench::Collective;
using bench::ElementType;
using bench::Operator;
using bench::PeerCommand;
using bench::PeerReply;

/// Memory that grows to the largest turn so far and is never moved within one.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  template <class T>
  T* of(std::size_t count) {
    if (count * sizeof(T) > bytes_) {
      std::free(data_);
      bytes_ = (count * sizeof(T) + 4095) / 4096 * 4096;
      data_ = std::aligned_alloc(4096, bytes_);
      if (data_ == nullptr) throw std::bad_alloc();
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

class Peer {
 public:
  Peer() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size_);
  }

  int rank() const { return rank_; }

  PeerReply run(const PeerCommand& command) {
    switch (command.type) {
      case ElementType::float32: return run<float>(command, MPI_FLOAT);
      case ElementType::float64: return run<double>(command, MPI_DOUBLE);
      case ElementType::int32: return run<std::int32_t>(command, MPI_INT32_T);
      default: break;
    }
    std::fprintf(stderr, "peer_mpi: MPI has no type %s\n", bench::name(command.type));
    return {.correct = 0};
  }

 private:
  template <class T>
  PeerReply run(const PeerCommand& command, MPI_Datatype type) {
    const auto count = static_cast<std::size_t>(command.count);
    const bool in_place = command.in_place != 0;
    T* const out = out_.of<T>(bench::out_count(command.collective, count, world_size_));
    T* const in = in_place ? out : in_.of<T>(bench::in_count(command.collective, count, world_size_));
    if (command.collective == Collective::reduce_scatter) divide(count);

    PeerReply reply;
    if (command.type != last_.type || command.op != last_.op || command.collective != last_.collective ||
        command.in_place != last_.in_place || command.count != last_.count) {
      last_ = command;
      if (!in_place) std::fill(out, out + bench::out_count(command.collective, count, world_size_), T{});
      fill(command, in, out);
      call(command, type, in_place ? MPI_IN_PLACE : in, out);
      int correct = is_correct(command, out) ? 1 : 0;
      MPI_Allreduce(MPI_IN_PLACE, &correct, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
      reply.correct = correct;
      if (in_place) std::fill(out, out + count, T{});  // repeated sums in place must not overflow
    }

    reply.batches = std::min(command.batches, bench::max_batches_per_turn);
    const auto once = [&] { call(command, type, in_place ? MPI_IN_PLACE : in, out); };
    for (int i = 0; i < command.warmup; ++i) once();
    for (int batch = 0; batch < reply.batches; ++batch) {
      MPI_Barrier(MPI_COMM_WORLD);
      reply.us[batch] = bench::time_us([&] {
                          for (std::int64_t i = 0; i < command.iterations; ++i) once();
                        }) /
                        static_cast<double>(command.iterations);
    }
    MPI_Allreduce(MPI_IN_PLACE, reply.us, reply.batches, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return reply;
  }

  void call(const PeerCommand& command, MPI_Datatype type, const void* in, void* out) {
    const int count = static_cast<int>(command.count);
    const MPI_Op op = command.op == Operator::max ? MPI_MAX : MPI_SUM;
    switch (command.collective) {
      case Collective::all_reduce: MPI_Allreduce(in, out, count, type, op, MPI_COMM_WORLD); return;
      case Collective::all_gather: MPI_Allgather(in, count, type, out, count, type, MPI_COMM_WORLD); return;
      case Collective::reduce_scatter:
        if (count % world_size_ == 0) {
          MPI_Reduce_scatter_block(in, out, count / world_size_, type, op, MPI_COMM_WORLD);
        } else {
          MPI_Reduce_scatter(in, out, part_counts_.data(), type, op, MPI_COMM_WORLD);
        }
        return;
      case Collective::all_to_all: MPI_Alltoall(in, count, type, out, count, type, MPI_COMM_WORLD); return;
      case Collective::broadcast: MPI_Bcast(out, count, type, 0, MPI_COMM_WORLD); return;
    }
  }

  /// What a call reads: of an all-to-all block r has a value of its own.
  template <class T>
  void fill(const PeerCommand& command, T* in, T* out) const {
    const auto count = static_cast<std::size_t>(command.count);
    if (command.collective == Collective::broadcast) {
      if (rank_ == 0) std::fill(out, out + count, T{7});
      return;
    }
    const int blocks = command.collective == Collective::all_to_all ? world_size_ : 1;
    for (int block = 0; block < blocks; ++block) {
      T* const at = in + static_cast<std::size_t>(block) * count;
      std::fill(at, at + count, static_cast<T>(1 + rank_ + block * world_size_));
    }
  }

  template <class T>
  bool is_correct(const PeerCommand& command, const T* out) const {
    const auto count = static_cast<std::size_t>(command.count);
    const auto holds = [](const T* at, std::size_t n, int expected) {
      return std::all_of(at, at + n, [&](T value) { return value == static_cast<T>(expected); });
    };
    const int folded = command.op == Operator::max ? world_size_ : world_size_ * (world_size_ + 1) / 2;
    switch (command.collective) {
      case Collective::all_reduce: return holds(out, count, folded);
      case Collective::reduce_scatter:
        return holds(out, static_cast<std::size_t>(part_counts_[static_cast<std::size_t>(rank_)]), folded);
      case Collective::broadcast: return holds(out, count, 7);
      default: break;
    }
    const int column = command.collective == Collective::all_to_all ? rank_ : 0;
    for (int source = 0; source < world_size_; ++source) {
      const T* const at = out + static_cast<std::size_t>(source) * count;
      if (!holds(at, count, 1 + source + column * world_size_)) return false;
    }
    return true;
  }

  void divide(std::size_t count) {
    part_counts_.clear();
    for (int rank = 0; rank < world_size_; ++rank) {
      const std::size_t begin = bench::part_begin(count, rank, world_size_);
      part_counts_.push_back(static_cast<int>(bench::part_begin(count, rank + 1, world_size_) - begin));
    }
  }

  int rank_ = 0;
  int world_size_ = 1;
  Buffer in_;
  Buffer out_;
  PeerCommand last_;
  std::vector<int> part_counts_;  ///< [rank], of a reduce-scatter
};

int serve(const std::string& directory) {
  Peer peer;
  const int commands = ::open(bench::command_pipe(directory, peer.rank()).c_str(), O_RDONLY);
  const int replies = peer.rank() == 0 ? ::open(bench::reply_pipe(directory).c_str(), O_WRONLY) : -1;
  if (commands < 0 || (peer.rank() == 0 && replies < 0)) {
    std::perror("peer_mpi: cannot open a pipe of allfold_perf");
    return 1;
  }
  MPI_Barrier(MPI_COMM_WORLD);
  if (replies >= 0 && !bench::write_record(replies, PeerReply{})) return 1;
  PeerCommand command;
  while (bench::read_record(commands, command) && command.verb == PeerCommand::Verb::run) {
    const PeerReply reply = peer.run(command);
    if (replies >= 0 && !bench::write_record(replies, reply)) return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int status = 2;
  if (argc == 3) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    bench::pin(rank, bench::split_numbers(argv[2]));
    status = serve(argv[1]);
  } else {
    std::fprintf(stderr, "usage: peer_mpi DIRECTORY CORES (allfold_perf --peer starts it)\n");
  }
  MPI_Finalize();
  return status;
}
