// SPDX-License-Identifier: Apache-2.0
#include <chrono>

#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <allfold/memory/descriptor_exchange.hpp>
#include <support/skip.hpp>

namespace {

using allfold::Deadline;
using allfold::DescriptorExchange;

/// Sends a descriptor to `to` from a child that becomes `user` first; whether it was sent.
bool send_as(uid_t user, const allfold::ExchangeAddress& to) {
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 1;
    try {
      if (::setresuid(user, user, user) == 0) {
        DescriptorExchange own("test");
        own.send("test", to, 1, 0, STDERR_FILENO, Deadline::after(std::chrono::seconds(20)));
        status = 0;
      }
    } catch (const allfold::Error&) {
    }
    ::_exit(status);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST_CASE("another user's datagram is dropped, even if it shows the secret") {
  constexpr uid_t nobody = 65534;
  DescriptorExchange own("test");
  if (::getuid() != 0 || !send_as(nobody, own.address())) SKIP_CASE("only root can act as another user");
  CHECK_FALSE(own.try_receive("test", 1));
  REQUIRE(send_as(::getuid(), own.address()));
  CHECK(own.try_receive("test", 1));
}

}  // namespace
