// SPDX-License-Identifier: Apache-2.0
// Compiled and run by comms_log_test.py: three ranks, which log what they do where ALLFOLD_COMMS_LOG says.
#include <vector>

#include <allfold/allfold.hpp>

/// An element whose name needs escaping in JSON.
struct Odd {
  int x;
};
template <>
struct allfold::element_traits<Odd> {
  using accumulator = Odd;
  static constexpr std::string_view name = "\"odd\"\\\n\xc3\xa9\xff";
  static constexpr Odd widen(Odd x) noexcept { return x; }
  static constexpr Odd narrow(Odd x) noexcept { return x; }
};

int main() {
  allfold::launch(3, [](const allfold::Environment& environment) {
    auto comm = allfold::Communicator<allfold::JsonTracer>::create(environment, allfold::Options{.channels = 2});
    std::vector<float> data(1000, 1.0F);
    for (int i = 0; i < 10; ++i) comm.all_reduce(data, allfold::sum);
    comm.barrier({.channel = 1});
    std::vector<Odd> odd(3);
    comm.all_reduce(odd, [](Odd a, Odd b) { return Odd{a.x + b.x}; });
  });
}
