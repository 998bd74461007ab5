// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

namespace allfold_test {

/// Where one all-reduce reads and writes: elements [in_at, in_at + count) of one field, and likewise of another or the
/// same. The elements around them show whether they were left alone.
template <class T>
struct Fields {
  std::span<T> in;
  std::span<T> out;
  std::size_t in_at = 0;
  std::size_t out_at = 0;

  bool in_place() const { return in.data() + in_at == out.data() + out_at; }
};

/// Private memory for elements, `bool` among them.
template <class T>
class PrivateField {
 public:
  explicit PrivateField(std::size_t size) : data_(new T[size]()), size_(size) {}
  std::span<T> span() { return {data_.get(), size_}; }

 private:
  std::unique_ptr<T[]> data_;
  std::size_t size_;
};

template <class T>
std::string bytes_text(const T& x) {
  const auto* const bytes = reinterpret_cast<const unsigned char*>(&x);
  std::string text = "0x";
  for (std::size_t i = sizeof(T); i-- > 0;) {
    text += "0123456789abcdef"[bytes[i] >> 4];
    text += "0123456789abcdef"[bytes[i] & 15];
  }
  return text;
}

template <class T>
bool same_bytes(const T& a, const T& b) {
  return std::memcmp(static_cast<const void*>(&a), static_cast<const void*>(&b), sizeof(T)) == 0;
}

template <class T>
T canary() {
  T x;
  std::memset(static_cast<void*>(&x), std::is_same_v<T, bool> ? 1 : 0x5a, sizeof x);
  return x;
}

inline constexpr std::size_t guard_elems = 16;

}  // namespace allfold_test
