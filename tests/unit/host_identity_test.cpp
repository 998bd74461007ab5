// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <allfold/memory/host_identity.hpp>
#include <support/skip.hpp>

namespace {

using allfold::host_identity;
using allfold::Identity;

/// Sets ALLFOLD_HOST_ID as long as it lives; nullptr: unsets it.
class HostId {
 public:
  explicit HostId(const char* text) {
    if (const char* const before = std::getenv(name)) before_ = before;
    set(text);
  }
  ~HostId() { set(before_ ? before_->c_str() : nullptr); }
  HostId(const HostId&) = delete;
  HostId& operator=(const HostId&) = delete;

 private:
  static constexpr const char* name = "ALLFOLD_HOST_ID";

  static void set(const char* text) {
    if (text == nullptr) {
      ::unsetenv(name);
    } else {
      ::setenv(name, text, 1);
    }
  }

  std::optional<std::string> before_;
};

/// What a child that first runs `prepare` says of itself; nothing if `prepare` fails.
template <class F>
std::optional<Identity> identity_of_child(F prepare) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (!prepare()) ::_exit(1);
    const Identity identity = host_identity();
    ::_exit(::write(ends[1], &identity, sizeof identity) == static_cast<ssize_t>(sizeof identity) ? 0 : 2);
  }
  ::close(ends[1]);
  Identity identity;
  const bool came = ::read(ends[0], &identity, sizeof identity) == static_cast<ssize_t>(sizeof identity);
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return came ? std::optional(identity) : std::nullopt;
}

TEST_CASE("an identity is the same whenever it is asked for") {
  const Identity a = host_identity();
  const Identity b = host_identity();
  CHECK(a.same_process(b));
  CHECK(a.host != 0);
  CHECK(a.namespaces != 0);
  CHECK(a.process == ::getpid());
  CHECK(a.process_start != 0);
  CHECK(std::strlen(a.host_name) > 0);
  CHECK(a.device == -1);
}

TEST_CASE("a child is another process of the same host") {
  const std::optional<Identity> child = identity_of_child([] { return true; });
  REQUIRE(child);
  CHECK(child->same_host(host_identity()));
  CHECK_FALSE(child->same_process(host_identity()));
}

TEST_CASE("a process of another namespace cannot share memory, though its host is the same") {
  const std::optional<Identity> child =
      identity_of_child([] { return ::unshare(CLONE_NEWUSER) == 0 || ::unshare(CLONE_NEWNET) == 0; });
  if (!child) SKIP_CASE("this system lets nobody unshare a namespace");
  CHECK(child->host == host_identity().host);
  CHECK_FALSE(child->same_host(host_identity()));
}

TEST_CASE("ALLFOLD_HOST_ID stands for the host") {
  const HostId none(nullptr);
  const Identity real = host_identity();
  const auto with = [](const char* text) {
    const HostId given(text);
    return host_identity();
  };
  CHECK_FALSE(with("a").same_host(real));
  CHECK_FALSE(with("a").same_host(with("b")));
  CHECK(with("a").same_host(with("a")));
  CHECK(with("").same_host(real));
  CHECK(host_identity().same_host(real));
}

}  // namespace
