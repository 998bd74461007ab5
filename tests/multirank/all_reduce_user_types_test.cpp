// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include <doctest/doctest.h>

#include <allfold/allfold.hpp>

#include <support/all_reduce.hpp>
#include <support/ranks.hpp>

using Comm = allfold::Communicator<>;

namespace {

constexpr std::initializer_list<std::size_t> counts = {0, 1, 3, 8, 17, 1025};
constexpr std::uint64_t seed = 20261124;

/// A largest value, and where it is: 12 bytes, which divide no packet evenly.
struct Largest {
  float value;
  std::uint32_t index;
  std::uint32_t rest;

  Largest() = default;
  explicit Largest(std::uint32_t word)
      : value(static_cast<float>(word % 1000)), index(word / 1000), rest(word * 2654435761U) {}
};

/// A 2 x 2 matrix of integers: its product is associative and does not commute.
struct Matrix {
  std::uint32_t at[4];

  Matrix() = default;
  explicit Matrix(std::uint32_t word) : at{word, word >> 7, word * 31, word ^ 0x55555555} {}

  friend Matrix operator*(const Matrix& a, const Matrix& b) {
    Matrix c;
    for (int row = 0; row < 2; ++row) {
      for (int column = 0; column < 2; ++column) {
        c.at[row * 2 + column] = a.at[row * 2] * b.at[column] + a.at[row * 2 + 1] * b.at[2 + column];
      }
    }
    return c;
  }
};

/// 40 bytes: more than any packet holds.
struct Wide {
  std::array<std::uint64_t, 5> words;

  Wide() = default;
  explicit Wide(std::uint32_t word) {
    for (std::size_t i = 0; i < words.size(); ++i) words[i] = word * (i + 1);
  }
  friend Wide operator+(const Wide& a, const Wide& b) {
    Wide c;
    for (std::size_t i = 0; i < a.words.size(); ++i) c.words[i] = a.words[i] + b.words[i];
    return c;
  }
};

}  // namespace

TEST_CASE("a user's type with a user's operator") {
  allfold_test::over_ranks(allfold_test::every_world_size, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    const auto larger = [](Largest a, Largest b) { return a.value < b.value ? b : a; };
    allfold_test::check_counts<Largest>(comm, larger, counts, seed);
  });
}

TEST_CASE("operands come in rank order: an operator need not commute") {
  allfold_test::over_ranks({2, 3, 8}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    allfold_test::check_counts<Matrix>(comm, allfold::product, counts, seed);
  });
}

TEST_CASE("a user's type wider than a packet") {
  allfold_test::over_ranks({2, 3, 8}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    allfold_test::check_counts<Wide>(comm, allfold::sum, counts, seed);
  });
}

TEST_CASE("a functor that captures, on float") {
  allfold_test::over_ranks({2, 3}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    const float bound = 2.5F;
    allfold_test::check_counts<float>(
        comm, [bound](float a, float b) { return a + b > bound ? bound : a + b; }, counts, seed);
  });
}

TEST_CASE("elements that must be aligned") {
  struct alignas(32) Vector {
    float at[8];
  };
  allfold_test::over_ranks({1, 2}, [](const allfold::Environment& environment) {
    auto comm = Comm::create(environment);
    for (const std::size_t count : {1, 2, 100}) {
      std::vector<Vector> data(count);
      for (Vector& x : data) x = {{1, 2, 3, 4, 5, 6, 7, 8}};
      comm.all_reduce(data, [](const Vector& a, const Vector& b) {
        Vector sum;
        for (int i = 0; i < 8; ++i) sum.at[i] = a.at[i] + b.at[i];
        return sum;
      });
      for (const Vector& x : data) EXPECT(x.at[7] == 8.0F * static_cast<float>(comm.world_size()));
    }
  });
}

TEST_CASE("elements too large for the staging memory are refused, and smaller ones are not") {
  struct Large {
    unsigned char bytes[3000];
  };
  const auto keep = [](const Large& a, const Large&) { return a; };
  allfold_test::over_ranks({2}, [&](const allfold::Environment& environment) {
    auto tight = Comm::create(environment, allfold::Options{.buffer_bytes = 4096});
    std::vector<Large> data(3);
    data[1].bytes[2999] = static_cast<unsigned char>(10 + environment.rank);
    EXPECT_THROWS_AS(tight.all_reduce(data, keep), allfold::UsageError);
    auto roomy = Comm::create(environment);
    roomy.all_reduce(data, keep);
    EXPECT(data[1].bytes[2999] == 10);
  });
}

TEST_CASE("any contiguous range is a buffer") {
  allfold_test::over_threads({2}, [](const allfold::Environment& environment) {
    Comm comm = Comm::create(environment);
    std::vector<int> vector(3, comm.rank() + 1);
    comm.all_reduce(vector, allfold::sum);
    EXPECT(vector == std::vector<int>(3, 3));

    const std::array<int, 3> in{1, 2, 3};
    std::array<int, 3> out{};
    comm.all_reduce(in, out, allfold::sum);
    EXPECT(out == std::array<int, 3>{2, 4, 6});

    int c_array[2] = {comm.rank(), 5};
    comm.all_reduce(c_array, allfold::max);
    EXPECT(c_array[0] == 1 && c_array[1] == 5);

    auto buffer = comm.allocate<int>(2);
    buffer[0] = buffer[1] = 7;
    comm.all_reduce(buffer, allfold::sum);
    EXPECT(buffer[0] == 14 && buffer[1] == 14);
  });
}
