// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

#include <cuda_runtime_api.h>

#include <allfold/launch/cuda_shape.hpp>
#include <allfold/op/element.hpp>
#include <allfold/op/operators.hpp>
#include <allfold/policy/options.hpp>
#include <allfold/policy/selector.hpp>

#include <support/fields.hpp>
#include <support/gpu_oracle.cuh>
#include <support/gpu_ranks.cuh>

/// All-reduces of GPU memory, checked against the oracle bit for bit. What these classes own is to be made before the
/// communicator and to go after it: allocating and freeing may wait for kernels that wait for a peer.

namespace allfold_test {

/// Compiles every algorithm, so that a call can ask for any.
struct EverySelector {
  using policy_category = allfold::selector_tag;
  static constexpr allfold::AlgorithmSet candidates = allfold::AlgorithmSet::all();
  allfold::Algorithm select(const allfold::SelectionQuery&) const { return allfold::Algorithm::none; }
};

/// Compiles these; the first is its choice.
template <allfold::Algorithm... As>
struct SomeSelector {
  using policy_category = allfold::selector_tag;
  static constexpr allfold::Algorithm list[] = {As...};
  static constexpr allfold::AlgorithmSet candidates = (allfold::AlgorithmSet::of(As) | ...);
  allfold::Algorithm select(const allfold::SelectionQuery&) const { return list[0]; }
};

/// Private memory of the current GPU, as cudaMalloc gives it.
template <class T>
class DeviceField {
 public:
  explicit DeviceField(std::size_t size) : size_(size) {
    EXPECT_CUDA(cudaMalloc(reinterpret_cast<void**>(&data_), size * sizeof(T)));
  }
  ~DeviceField() { cudaFree(data_); }
  DeviceField(const DeviceField&) = delete;
  DeviceField& operator=(const DeviceField&) = delete;

  std::span<T> span() const noexcept { return {data_, size_}; }
  T* data() const noexcept { return data_; }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

/// Host memory that the GPU copies from and to while the host goes on.
template <class T>
class PinnedField {
 public:
  explicit PinnedField(std::size_t size) : size_(size) {
    EXPECT_CUDA(cudaMallocHost(reinterpret_cast<void**>(&data_), size * sizeof(T)));
  }
  ~PinnedField() { cudaFreeHost(data_); }
  PinnedField(const PinnedField&) = delete;
  PinnedField& operator=(const PinnedField&) = delete;

  T* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  T& operator[](std::size_t i) const noexcept { return data_[i]; }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

/// This rank's input of all-reduces of up to `most` elements, and what they give. The oracle is slow, so its answers
/// are computed once: a call takes `count` elements from a place that moves on from call to call, so that what an
/// earlier call left behind is wrong in this one.
template <class T>
class Answers {
 public:
  static constexpr std::size_t places = 1021;

  template <class Op>
  Answers(const Op& op, int rank, int world_size, std::size_t most, std::uint64_t seed)
      : in_(most + places), want_(most + places), seed_(seed), rank_(rank), world_size_(world_size) {
    compute(op, want_, false);
    if (world_size != 8) return;
    mesh_want_ = std::make_unique<PrivateField<T>>(most + places);
    compute(op, *mesh_want_, true);
  }

  std::size_t next_place() noexcept { return place_ = (place_ + 37) % places; }
  const T* in(std::size_t place) const noexcept { return in_.data() + place; }
  const T* want(std::size_t place, bool mesh) const { return (mesh ? *mesh_want_ : want_).span().data() + place; }
  /// Every rank's operand of an element, for messages.
  std::string operands(std::size_t at) const {
    std::string text;
    for (int r = 0; r < world_size_; ++r) text += allfold::concat({" ", bytes_text(gpu_element<T>(seed_, r, at))});
    return text;
  }
  int rank() const noexcept { return rank_; }

 private:
  template <class Op>
  void compute(const Op& op, PrivateField<T>& want, bool mesh) {
    T operands[allfold::max_window_ranks];
    for (std::size_t i = 0; i < in_.size(); ++i) {
      for (int r = 0; r < world_size_; ++r) operands[r] = gpu_element<T>(seed_, r, i);
      in_[i] = operands[rank_];
      want.span()[i] = gpu_expected<T>(op, std::span<const T>(operands, static_cast<std::size_t>(world_size_)), mesh);
    }
  }

  PinnedField<T> in_;
  mutable PrivateField<T> want_;
  std::unique_ptr<PrivateField<T>> mesh_want_;
  std::uint64_t seed_;
  std::size_t place_ = 0;
  int rank_;
  int world_size_;
};

/// One all-reduce on its way. `fields` (support/fields.hpp) are of device memory, with guard_elems to spare around
/// what the call uses.
template <class T>
class CheckedCall {
 public:
  explicit CheckedCall(Answers<T>& answers, std::size_t most)
      : answers_(answers), back_(most + 2 * guard_elems), in_back_(most) {}

  /// Enqueues the input, canaries all over the output, and the call.
  template <class Comm, class Op>
  void begin(Comm& comm, const Op& op, const Fields<T>& fields, std::size_t count,
             const allfold::CallOptions& options) {
    fields_ = fields;
    count_ = count;
    stream_ = options.stream;
    place_ = answers_.next_place();
    mesh_ = options.algorithm == allfold::Algorithm::hybrid_cube_mesh;
    head_ = allfold::concat({allfold::type_name<T>(), " ", allfold::operator_name<Op>(), ", ",
                             options.algorithm ? allfold::name(*options.algorithm) : "any algorithm", ", count ", count,
                             ", offsets ", fields.in_at - guard_elems, " and ", fields.out_at - guard_elems, ", place ",
                             place_, fields.in_place() ? ", in place: " : ": "});
    const T x = canary<T>();
    const int byte = *reinterpret_cast<const unsigned char*>(&x);
    EXPECT_CUDA(cudaMemsetAsync(guarded(), byte, (count + 2 * guard_elems) * sizeof(T), stream_));
    EXPECT_CUDA(cudaMemcpyAsync(fields.in.data() + fields.in_at, answers_.in(place_), count * sizeof(T),
                                cudaMemcpyHostToDevice, stream_));
    const std::span<T> in = fields.in.subspan(fields.in_at, count);
    const std::span<T> out = fields.out.subspan(fields.out_at, count);
    try {
      if (fields.in_place()) {
        comm.all_reduce(out, op, options);
      } else {
        comm.all_reduce(std::span<const T>(in), out, op, options);
      }
    } catch (const allfold::UsageError&) {
      throw;
    } catch (const std::exception& error) {
      throw_failure(head_ + error.what(), __FILE__, __LINE__);
    }
  }

  /// Waits for it, and checks every byte of the result, of the input, and around the output.
  template <class Comm>
  void end(Comm& comm) {
    EXPECT_CUDA(cudaMemcpyAsync(back_.data(), guarded(), (count_ + 2 * guard_elems) * sizeof(T), cudaMemcpyDeviceToHost,
                                stream_));
    if (!fields_.in_place()) {
      EXPECT_CUDA(cudaMemcpyAsync(in_back_.data(), fields_.in.data() + fields_.in_at, count_ * sizeof(T),
                                  cudaMemcpyDeviceToHost, stream_));
    }
    try {
      EXPECT_CUDA(cudaStreamSynchronize(stream_));
      comm.status();
    } catch (const std::exception& error) {
      throw_failure(head_ + error.what(), __FILE__, __LINE__);
    }
    compare("output", back_.data() + guard_elems, answers_.want(place_, mesh_));
    if (!fields_.in_place()) compare("input", in_back_.data(), answers_.in(place_));
    for (std::size_t i = 0; i < guard_elems; ++i) {
      for (const std::size_t at : {i, guard_elems + count_ + i}) {
        if (same_bytes(back_[at], canary<T>())) continue;
        throw_failure(allfold::concat({head_, "wrote ", at < guard_elems ? guard_elems - at : at - guard_elems - count_,
                                       at < guard_elems ? " elements before" : " elements behind",
                                       " the output: ", bytes_text(back_[at])}),
                      __FILE__, __LINE__);
      }
    }
  }

 private:
  T* guarded() const noexcept { return fields_.out.data() + fields_.out_at - guard_elems; }

  void compare(const char* which, const T* got, const T* want) const {
    if (count_ == 0 || std::memcmp(got, want, count_ * sizeof(T)) == 0) return;
    std::size_t first = count_;
    std::size_t last = 0;
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < count_; ++i) {
      if (same_bytes(got[i], want[i])) continue;
      first = wrong++ == 0 ? i : first;
      last = i;
    }
    throw_failure(allfold::concat({head_, wrong, " elements of the ", which, " are wrong, from ", first, " to ", last,
                                   "; the first is ", bytes_text(got[first]), ", not ", bytes_text(want[first]),
                                   "; the ranks' operands are", answers_.operands(place_ + first)}),
                  __FILE__, __LINE__);
  }

  Answers<T>& answers_;
  PinnedField<T> back_;
  PinnedField<T> in_back_;
  Fields<T> fields_{};
  std::string head_;
  cudaStream_t stream_ = nullptr;
  std::size_t count_ = 0;
  std::size_t place_ = 0;
  bool mesh_ = false;
};

/// From so many bytes on, whole vectors in symmetric memory go in wide packets, on any number of blocks.
constexpr std::size_t surely_wide_bytes(allfold::Algorithm algorithm, int world_size) {
  return allfold::wide_from_bytes(algorithm, world_size, 1000);
}

/// What one type's all-reduces with one operator need, for up to `most` elements: two fields of private memory, the
/// answers, and room for what comes back.
template <class T, class Op>
class GpuChecks {
 public:
  /// Beyond the guards, for offsets of up to 8 elements.
  static std::size_t room(std::size_t most) { return most + 2 * guard_elems + 8; }

  GpuChecks(RankGpu& gpu, const allfold::Environment& environment, const Op& op, std::size_t most, std::uint64_t seed)
      : gpu_(gpu),
        op_(op),
        a_(room(most)),
        b_(room(most)),
        answers_(op, environment.rank, environment.world_size, most, seed),
        call_(answers_, most) {}

  std::span<T> a() const noexcept { return a_.span(); }
  std::span<T> b() const noexcept { return b_.span(); }

  /// One all-reduce of elements [in_at, in_at + count) of `in`, counted behind the guards, and likewise for `out`.
  template <class Comm>
  void check(Comm& comm, std::span<T> in, std::size_t in_at, std::span<T> out, std::size_t out_at, std::size_t count,
             allfold::CallOptions options) {
    if (options.stream == nullptr) options.stream = gpu_.stream();
    call_.begin(comm, op_, {in, out, guard_elems + in_at, guard_elems + out_at}, count, options);
    call_.end(comm);
  }

  /// Several sizes on private memory, in place and not, aligned and not.
  template <class Comm>
  void check_counts(Comm& comm, std::initializer_list<std::size_t> counts, const allfold::CallOptions& options = {}) {
    for (const std::size_t count : counts) {
      check(comm, a(), 0, b(), 0, count, options);
      check(comm, a(), 0, a(), 0, count, options);
      check(comm, a(), 1, b(), 3, count, options);
      check(comm, b(), 5, b(), 5, count, options);
    }
  }

 private:
  RankGpu& gpu_;
  Op op_;
  DeviceField<T> a_;
  DeviceField<T> b_;
  Answers<T> answers_;
  CheckedCall<T> call_;
};

}  // namespace allfold_test
