// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The handwritten digits of data/digits.csv.gz: 8x8 pixels and a label each.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <zlib.h>

namespace digits {

inline constexpr std::size_t pixels = 64;
inline constexpr std::size_t classes = 10;

struct Image {
  std::array<float, pixels> pixel{};  ///< 0 to 1
  std::uint32_t label = 0;
};

/// Numbers that are the same on every machine, unlike those of <random>'s distributions (splitmix64).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15ULL;
    std::uint64_t x = state_;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
  }

  /// Evenly from -1 to 1.
  float signed_unit() { return static_cast<float>(next() >> 40) / static_cast<float>(1 << 23) - 1.0F; }

  template <class T>
  void shuffle(std::vector<T>& items) {
    for (std::size_t left = items.size(); left > 1; --left) std::swap(items[left - 1], items[next() % left]);
  }

 private:
  std::uint64_t state_;
};

/// Reads gzipped rows of 64 pixels from 0 to 16 and a label. @throws std::runtime_error
inline std::vector<Image> load(const std::string& path) {
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (!file) throw std::runtime_error("cannot open " + path + "; try --data PATH");
  std::vector<Image> images;
  char line[512];
  while (gzgets(file.get(), line, sizeof line) != nullptr) {
    Image image;
    char* at = line;
    const auto number = [&](long most) {
      char* end = at;
      const long value = std::strtol(at, &end, 10);
      if (end == at || value < 0 || value > most) {
        throw std::runtime_error(path + ": line " + std::to_string(images.size() + 1) +
                                 " is not 64 numbers from 0 to 16 and a label from 0 to 9");
      }
      at = *end == ',' ? end + 1 : end;
      return value;
    };
    for (float& pixel : image.pixel) pixel = static_cast<float>(number(16)) / 16.0F;
    image.label = static_cast<std::uint32_t>(number(classes - 1));
    images.push_back(image);
  }
  if (images.size() < 100) throw std::runtime_error(path + " holds too few images to learn from");
  return images;
}

struct Split {
  std::vector<Image> training;
  std::vector<Image> held_out;
};

/// Holds one fifth out, chosen by the seed.
inline Split split(std::vector<Image> images, std::uint64_t seed) {
  Random(seed).shuffle(images);
  const auto middle = images.begin() + static_cast<std::ptrdiff_t>(images.size() - images.size() / 5);
  return {{images.begin(), middle}, {middle, images.end()}};
}

}  // namespace digits
