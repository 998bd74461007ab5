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
    const MPI_Op op = command.op == Operator::max ? MPI_MAX : MPI_SUM;
    T* const out = out_.of<T>(count);
    T* const source = command.in_place != 0 ? out : in_.of<T>(count);
    const auto fill = [&](T value) { std::fill(source, source + count, value); };
    const auto fold = [&] {
      MPI_Allreduce(command.in_place != 0 ? MPI_IN_PLACE : source, out, static_cast<int>(count), type, op,
                    MPI_COMM_WORLD);
    };

    PeerReply reply;
    if (command.type != last_.type || command.op != last_.op || command.in_place != last_.in_place ||
        command.count != last_.count) {
      last_ = command;
      std::fill(out, out + count, T{});
      fill(static_cast<T>(rank_ + 1));
      fold();
      const T expected =
          static_cast<T>(command.op == Operator::max ? world_size_ : world_size_ * (world_size_ + 1) / 2);
      int correct = std::all_of(out, out + count, [&](T value) { return value == expected; }) ? 1 : 0;
      MPI_Allreduce(MPI_IN_PLACE, &correct, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
      reply.correct = correct;
      if (command.in_place != 0) fill(T{});  // repeated sums in place must not overflow
    }

    reply.batches = std::min(command.batches, bench::max_batches_per_turn);
    for (int i = 0; i < command.warmup; ++i) fold();
    for (int batch = 0; batch < reply.batches; ++batch) {
      MPI_Barrier(MPI_COMM_WORLD);
      reply.us[batch] = bench::time_us([&] {
                          for (std::int64_t i = 0; i < command.iterations; ++i) fold();
                        }) /
                        static_cast<double>(command.iterations);
    }
    MPI_Allreduce(MPI_IN_PLACE, reply.us, reply.batches, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return reply;
  }

  int rank_ = 0;
  int world_size_ = 1;
  Buffer in_;
  Buffer out_;
  PeerCommand last_;
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
