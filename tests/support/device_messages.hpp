// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <span>
#include <type_traits>
#include <vector>

#include <cuda_runtime_api.h>

#include <allfold/policy/options.hpp>
#include <allfold/work.hpp>

#include <support/fields.hpp>
#include <support/oracle.hpp>
#include <support/rank_values.hpp>
#include <support/ranks.hpp>

/// Every collective over messages on memory of a GPU, compared with the oracle on the host.

namespace allfold_test {

inline void check_device(cudaError_t status, const char* file, int line) {
  if (status != cudaSuccess) throw_failure(cudaGetErrorName(status), file, line);
}
#define EXPECT_DEVICE(...) ::allfold_test::check_device((__VA_ARGS__), __FILE__, __LINE__)

/// Elements in memory of the GPU that is current.
template <class T>
class DeviceVector {
 public:
  explicit DeviceVector(std::size_t size) : size_(size) {
    if (size != 0) EXPECT_DEVICE(cudaMalloc(reinterpret_cast<void**>(&data_), size * sizeof(T)));
    fill(canary<T>());
  }
  explicit DeviceVector(const std::vector<T>& values) : DeviceVector(values.size()) { *this = values; }
  DeviceVector(const DeviceVector&) = delete;
  ~DeviceVector() { cudaFree(data_); }

  DeviceVector& operator=(const std::vector<T>& values) {
    if (size_ != 0) EXPECT_DEVICE(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyDefault));
    return *this;
  }
  void fill(T x) { *this = std::vector<T>(size_, x); }

  T* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  std::span<T> span() const noexcept { return {data_, size_}; }
  std::vector<T> host() const {
    std::vector<T> values(size_);
    if (size_ != 0) EXPECT_DEVICE(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDefault));
    return values;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

template <class T>
bool same_values(const DeviceVector<T>& a, const std::vector<T>& b) {
  const std::vector<T> mine = a.host();
  return same_values(std::span<const T>(mine), std::span<const T>(b));
}

/// `count` is a multiple of the world size.
template <class T, class Op>
void every_device_reduction(auto& comm, const Op& op, std::size_t count) {
  const int me = comm.rank();
  const auto ranks = static_cast<std::size_t>(comm.world_size());
  const int root = comm.world_size() - 1;
  const std::vector<T> values = values_of<T>(me, count);
  const std::vector<T> want = folded_values<T>(op, comm.world_size(), count);
  const DeviceVector<T> in(values);

  DeviceVector<T> out(count);
  comm.all_reduce(in, out, op);
  EXPECT(same_values(out, want));
  out = values;
  comm.all_reduce(out, op);
  EXPECT(same_values(out, want));
  if constexpr (std::is_integral_v<T>) {  // whatever the order
    out = values;
    comm.all_reduce(out, op, {.fast = true});
    EXPECT(same_values(out, want));
  }

  out = values;
  const std::span<T> pieces[] = {out.span().first(count / 3), {}, out.span().subspan(count / 3)};
  comm.all_reduce_coalesced(std::span<const std::span<T>>(pieces), op);
  EXPECT(same_values(out, want));

  DeviceVector<T> at_root(me == root ? count : 0);
  comm.reduce(in, at_root, op, {.root = root});
  EXPECT(me != root || same_values(at_root, want));

  const std::size_t each = count / ranks;
  DeviceVector<T> part(each);
  const auto mine = std::span<const T>(want).subspan(each * static_cast<std::size_t>(me), each);
  comm.reduce_scatter(in, part, op);
  EXPECT(same_values(part, {mine.begin(), mine.end()}));
  part.fill(canary<T>());
  comm.reduce_scatter_v(in, part, op, std::vector<std::size_t>(ranks, each));
  EXPECT(same_values(part, {mine.begin(), mine.end()}));
}

template <class T>
void every_device_motion(auto& comm, std::size_t each) {
  const int me = comm.rank();
  const int ranks = comm.world_size();
  const auto total = each * static_cast<std::size_t>(ranks);
  const int root = ranks / 2;
  const std::vector<T> mine = values_of<T>(me, each);
  const std::vector<T> all_of_all = values_of_all<T>(ranks, each);
  const DeviceVector<T> in(mine);

  DeviceVector<T> data(each);
  if (me == root) data = mine;
  comm.broadcast(data, {.root = root});
  EXPECT(same_values(data, values_of<T>(root, each)));

  DeviceVector<T> all(total);
  comm.all_gather(in, all);
  EXPECT(same_values(all, all_of_all));
  all.fill(canary<T>());
  const std::vector<std::size_t> counts(static_cast<std::size_t>(ranks), each);
  comm.all_gather_v(in, all, counts);
  EXPECT(same_values(all, all_of_all));

  const DeviceVector<T> gathered(me == root ? total : 0);
  comm.gather(in, gathered, {.root = root});
  EXPECT(me != root || same_values(gathered, all_of_all));
  DeviceVector<T> back(each);
  comm.scatter(gathered, back, {.root = root});
  EXPECT(same_values(back, mine));
  comm.gather_v(in, gathered, counts, {.root = root});
  back.fill(canary<T>());
  comm.scatter_v(gathered, counts, back, {.root = root});
  EXPECT(same_values(back, mine));

  const DeviceVector<T> to_all(values_of<T>(me, total));
  const auto exchanged = [&](const DeviceVector<T>& from_all) {
    const std::vector<T> got = from_all.host();
    bool right = true;
    for (int r = 0; r < ranks; ++r) {
      const auto want = values_of<T>(r, each, static_cast<std::size_t>(me) * each);
      right = right && same_values(std::span<const T>(got).subspan(static_cast<std::size_t>(r) * each, each),
                                   std::span<const T>(want));
    }
    return right;
  };
  all.fill(canary<T>());
  comm.all_to_all(to_all, all);
  EXPECT(exchanged(all));
  all.fill(canary<T>());
  comm.all_to_all_v(to_all, counts, all, counts);
  EXPECT(exchanged(all));
}

/// Messages of every size around the ring, several with one tag at once, the last from whoever sends it.
inline void every_device_message(auto& comm, std::size_t longest) {
  const int ranks = comm.world_size();
  const int next = (comm.rank() + 1) % ranks;
  const int before = (comm.rank() + ranks - 1) % ranks;
  const std::size_t sizes[] = {longest, 1, longest / 2, longest / 2 + 1, 0, longest - 1, 7, longest};
  constexpr std::size_t messages = std::size(sizes);
  std::deque<DeviceVector<int>> from, to;
  std::vector<allfold::Work> works;
  for (std::size_t m = 0; m < messages; ++m) {
    from.emplace_back(values_of<int>(comm.rank(), sizes[m], m));
    to.emplace_back(sizes[m]);
  }
  for (std::size_t m = 0; m < messages; ++m) {
    const int source = m + 1 < messages ? before : allfold::any_source;
    works.push_back(comm.receive(to[m], source, {.tag = 5, .async = true}));
  }
  for (std::size_t m = 0; m < messages; ++m) works.push_back(comm.send(from[m], next, {.tag = 5, .async = true}));
  for (const allfold::Work& work : works) work.wait();
  for (std::size_t m = 0; m < messages; ++m) EXPECT(same_values(to[m], values_of<int>(before, sizes[m], m)));
  EXPECT(works[messages - 1].source_rank() == before);
}

}  // namespace allfold_test
