// SPDX-License-Identifier: Apache-2.0
#include <allfold/store/tcp.hpp>

#include <csignal>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <dirent.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <allfold/store/all_gather.hpp>

#include <support/store_conformance.hpp>

using allfold::PeerError;
using allfold::TcpStore;
using allfold::TcpStoreOptions;
using allfold::TimeoutError;
using allfold::UniqueFd;
using allfold::UsageError;
using allfold::detail::listen_at;
using namespace allfold_test;
using namespace std::chrono_literals;

namespace {

TcpStoreOptions server_options() {
  TcpStoreOptions options;
  options.serve = true;
  return options;
}

TcpStoreOptions client_options(const TcpStore& server) {
  TcpStoreOptions options;
  options.port = server.port();
  return options;
}

int entries(const char* path) {
  DIR* const folder = ::opendir(path);
  REQUIRE(folder != nullptr);
  int n = 0;
  while (::readdir(folder) != nullptr) ++n;
  ::closedir(folder);
  return n;
}

std::uint16_t port_of(const UniqueFd& listener) { return allfold::detail::local_address(listener.get()).port(); }

UniqueFd listener_on_loopback() { return listen_at("test", "127.0.0.1", 0); }

bool has_ipv6() {
  try {
    listen_at("test", "::1", 0);
    return true;
  } catch (const allfold::SystemError&) {
    return false;
  }
}

/// Runs `body` in a child process, which ends without running this program's exit handlers.
template <class Body>
pid_t in_child(const Body& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 1;
    try {
      body();
      status = 0;
    } catch (const std::exception&) {
    }
    ::_exit(status);
  }
  return child;
}

}  // namespace

TEST_CASE("TcpStore is a store") {
  TcpStore server(server_options());
  CHECK(server.port() != 0);
  check_store_conformance([&] { return TcpStore(client_options(server)); });
}

TEST_CASE("TcpStore: several threads share one object") {
  TcpStore server(server_options());
  check_shared_object(server);
  TcpStore client(client_options(server));
  on_threads(4, [&](int me) {
    const std::string value(500000 + static_cast<std::size_t>(me), static_cast<char>('a' + me));
    for (int i = 0; i < 5; ++i) {
      client.set("mine" + std::to_string(me), value, soon());
      if (client.get("mine" + std::to_string(me), soon()) != value) throw std::runtime_error("another thread's value");
    }
  });
}

TEST_CASE("TcpStore serves IPv6") {
  if (!has_ipv6()) return;
  TcpStoreOptions options = server_options();
  options.host = "::1";
  TcpStore server(options);
  TcpStoreOptions other = client_options(server);
  other.host = "::1";
  TcpStore client(other);
  client.set("key", "value");
  CHECK(server.get("key") == "value");
}

TEST_CASE("TcpStore listens on loopback unless it is told otherwise") {
  // 127.0.0.2 is another address of this host: it reaches a server of all addresses alone.
  const auto reached = [](const TcpStore& server) {
    TcpStoreOptions options = client_options(server);
    options.host = "127.0.0.2";
    try {
      const TcpStore client(options, within_ms(50));
      return true;
    } catch (const TimeoutError&) {
      return false;
    }
  };
  TcpStoreOptions options = server_options();
  CHECK_FALSE(reached(TcpStore(options)));
  options.host = "192.0.2.1";  // no address of this host, and not asked to listen there
  CHECK_FALSE(reached(TcpStore(options)));
  options.bind_address = "0.0.0.0";
  CHECK(reached(TcpStore(options)));
  options.bind_address = "127.0.0.2";
  CHECK(reached(TcpStore(options)));
}

TEST_CASE("TcpStore::connect: rank 0 serves, on the launcher's socket or on its own") {
  const UniqueFd listener = listener_on_loopback();
  for (const bool adopts : {true, false}) {
    allfold::Environment environment;
    environment.world_size = 4;
    environment.meeting_port = port_of(listener);
    environment.meeting_host = "localhost";
    if (adopts) {
      environment.meeting_host = "127.0.0.1";
      environment.listening_socket = listener.get();
    } else {
      const UniqueFd probe = listen_at("test", "localhost", 0);
      environment.meeting_port = port_of(probe);  // free again in a moment
    }
    on_threads(4, [&](int rank) {
      allfold::Environment mine = environment;
      mine.rank = rank;
      if (rank == 0) std::this_thread::sleep_for(50ms);  // the others knock, and knock again
      TcpStore store = TcpStore::connect(mine, soon());
      const std::vector<int> ranks = allfold::store_all_gather(store, "ranks", rank, 4, rank, soon());
      if (ranks != std::vector<int>{0, 1, 2, 3}) throw std::runtime_error("wrong ranks");
      store.add("left", 1, soon());
      while (rank == 0 && store.add("left", 0, soon()) < 4) std::this_thread::sleep_for(1ms);
    });
  }
  CHECK(::fcntl(listener.get(), F_GETFD) >= 0);  // still the launcher's
}

TEST_CASE("TcpStore::connect: the ranks' next store is another, though the last is still served") {
  const UniqueFd listener = listener_on_loopback();
  allfold::Environment environment;
  environment.world_size = 3;
  environment.meeting_port = port_of(listener);
  environment.listening_socket = listener.get();
  for (const bool side_by_side : {true, false}) {
    on_threads(3, [&](int rank) {
      allfold::Environment mine = environment;
      mine.rank = rank;
      std::vector<std::unique_ptr<TcpStore>> stores;
      for (int i = 0; i < 4; ++i) {
        if (rank == 0 && !side_by_side) std::this_thread::sleep_for(20ms);  // the others are at the next already
        if (!side_by_side) stores.clear();
        stores.push_back(std::make_unique<TcpStore>(TcpStore::connect(mine, soon())));
        if (stores.back()->add("joined", 1, soon()) > 3) throw std::runtime_error("joined another round's store");
        while (stores.back()->add("joined", 0, soon()) < 3) std::this_thread::sleep_for(1ms);
        stores.back()->add("seen", 1, soon());
        while (rank == 0 && stores.back()->add("seen", 0, soon()) < 3) std::this_thread::sleep_for(1ms);
      }
      if (rank == 0 && side_by_side) stores.back()->get("the others are done", soon());
      if (rank != 0 && side_by_side && stores.back()->add("done", 1, soon()) == 2) {
        stores.back()->set("the others are done", "", soon());
      }
    });
  }
  allfold::Environment again = environment;
  again.rank = 0;
  TcpStore served = TcpStore::connect(again, soon());
  again.rank = 1;
  TcpStore joined = TcpStore::connect(again, soon());
  CHECK(contains(message_of<TimeoutError>([&] { TcpStore::connect(again, within_ms(300)); }),
                 "joined the store there before"));
}

TEST_CASE("TcpStore: one server, 512 clients") {
  rlimit limit;
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlimit before = limit;
  limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096;
  if (before.rlim_cur < limit.rlim_cur) REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  {
    TcpStore server(server_options());
    std::vector<std::unique_ptr<TcpStore>> clients;
    clients.reserve(512);
    for (int i = 0; i < 512; ++i) {
      clients.push_back(std::make_unique<TcpStore>(client_options(server), soon()));
    }
    for (int i = 0; i < 512; ++i) CHECK(clients[static_cast<std::size_t>(i)]->add("n", 1, soon()) == i + 1);
    // All of them wait at once, on 8 threads in turns, and are answered at once.
    on_threads(8, [&](int thread) {
      if (thread == 0) {
        std::this_thread::sleep_for(20ms);
        clients[0]->set("go", "value", soon());
      }
      for (std::size_t i = static_cast<std::size_t>(thread); i < 512; i += 8) {
        if (clients[i]->get("go", soon()) != "value") throw std::runtime_error("wrong value");
      }
    });
  }
  ::setrlimit(RLIMIT_NOFILE, &before);
}

TEST_CASE("TcpStore can be moved") {
  TcpStore first(server_options());
  first.set("key", "value");
  TcpStore second = std::move(first);
  CHECK(second.get("key") == "value");
  first = TcpStore(server_options());
  CHECK_FALSE(first.check(Strings{"key"}));
  first = std::move(second);
  CHECK(first.get("key") == "value");
}

TEST_CASE("TcpStore leaves no thread and no descriptor behind") {
  const int threads = entries("/proc/self/task"), descriptors = entries("/proc/self/fd");
  {
    TcpStore server(server_options());
    TcpStore client(client_options(server));
    CHECK(entries("/proc/self/task") == threads + 1);
  }
  CHECK(entries("/proc/self/task") == threads);
  CHECK(entries("/proc/self/fd") == descriptors);
}

TEST_CASE("TcpStore: a deadline that passes amid a reply leaves the connection in step") {
  TcpStore server(server_options());
  TcpStore client(client_options(server));
  const std::string value(4000000, 'v');
  client.set("large", value, soon());
  client.set("small", "s", soon());
  for (int i = 0; i < 6; ++i) {
    try {
      const std::string got = client.get("large", allfold::Deadline::after(std::chrono::microseconds(600 * i)));
      CHECK((got == value));
    } catch (const TimeoutError&) {
    }
    CHECK(client.get("small", soon()) == "s");
  }
  // Likewise amid a request, where late replies stand in its way too.
  int late = 0;
  for (int i = 0; i < 6; ++i) {
    try {
      client.set("large", value, allfold::Deadline::after(std::chrono::microseconds(50 * i)));
    } catch (const TimeoutError&) {
      ++late;
    }
    if (i % 2 == 0) message_of<TimeoutError>([&] { client.get("never", within_ms(0)); });
  }
  CHECK(late > 0);
  client.set("large", "done", soon());
  CHECK(client.get("large", soon()) == "done");
}

TEST_CASE("TcpStore: the server's end ends waits at once, and no signal is raised") {
  auto server = std::make_unique<TcpStore>(server_options());
  TcpStore client(client_options(*server));
  const auto start = allfold::Clock::now();
  on_threads(3, [&](int i) {
    if (i == 0) {
      client.set("waiting", "", soon());
      std::this_thread::sleep_for(30ms);
      server.reset();
      return;
    }
    client.wait(Strings{"waiting"}, soon());
    const std::string text = message_of<PeerError>([&] { client.get("never", soon()); });
    if (!contains(text, "TcpStore::get: the server closed the connection")) throw std::runtime_error(text);
  });
  CHECK(allfold::Clock::now() - start < 10s);
  try {
    client.set("key", "value", soon());
    FAIL("no error");
  } catch (const PeerError& error) {
    CHECK(error.source_rank() == 0);
  }
}

TEST_CASE("TcpStore: a server that is killed ends waits at once") {
  const UniqueFd listener = listener_on_loopback();
  TcpStoreOptions options = server_options();
  options.listening_socket = listener.get();
  const pid_t child = in_child([&] {
    TcpStore server(options);
    server.get("never", within_ms(60000));
  });
  TcpStoreOptions mine;
  mine.port = port_of(listener);
  mine.rank = 1;
  mine.world_size = 2;
  TcpStore client(mine);
  client.set("key", "value", soon());
  const auto start = allfold::Clock::now();
  on_threads(2, [&](int i) {
    if (i == 0) {
      std::this_thread::sleep_for(30ms);
      ::kill(child, SIGKILL);
    } else {
      const std::string text = message_of<PeerError>([&] { client.get("never", soon()); });
      if (!contains(text, "allfold: rank 1/2: TcpStore::get: ")) throw std::runtime_error(text);
    }
  });
  CHECK(allfold::Clock::now() - start < 10s);
  ::waitpid(child, nullptr, 0);
}

TEST_CASE("TcpStore: a forked child that drops its copy does not disturb the server") {
  TcpStore server(server_options());
  TcpStore client(client_options(server));
  const pid_t child = in_child([&] { TcpStore dropped = std::move(server); });
  int status = -1;
  ::waitpid(child, &status, 0);
  CHECK(status == 0);
  client.set("key", "value", soon());
  CHECK(server.get("key", soon()) == "value");
}

TEST_CASE("TcpStore: clients wait for the server, up to their deadline") {
  std::uint16_t port = 0;
  {
    const UniqueFd listener = listener_on_loopback();
    port = port_of(listener);
  }
  TcpStoreOptions options;
  options.port = port;
  const std::string refused = message_of<TimeoutError>([&] { TcpStore(options, within_ms(30)); });
  CHECK(contains(refused, "cannot reach the store's server at 127.0.0.1 port " + std::to_string(port)));
  CHECK(contains(refused, "Connection refused"));
  options.host = "this.name.does.not.resolve.invalid";
  CHECK(contains(message_of<TimeoutError>([&] { TcpStore(options, within_ms(30)); }), "cannot resolve"));

  // One that accepts and says nothing, such as a launcher whose rank 0 is late.
  const UniqueFd silent = listener_on_loopback();
  options.host = "127.0.0.1";
  options.port = port_of(silent);
  CHECK(contains(message_of<TimeoutError>([&] { TcpStore(options, within_ms(30)); }), "says nothing"));
}

TEST_CASE("TcpStore knows another program from a store") {
  const UniqueFd listener = listener_on_loopback();
  TcpStoreOptions options;
  options.port = port_of(listener);
  for (const std::string& greeting :
       {std::string("SSH-2.0-OpenSSH_9.2\r\n"),
        allfold::detail::encode_reply(0, allfold::detail::Status::greeting, "allfold\x02"),
        std::string("\x05\0\0\0abcd\0", 9)}) {
    on_threads(2, [&](int i) {
      if (i == 0) {
        pollfd one = {listener.get(), POLLIN, 0};
        ::poll(&one, 1, 20000);
        const UniqueFd caller(::accept(listener.get(), nullptr, nullptr));
        ::send(caller.get(), greeting.data(), greeting.size(), MSG_NOSIGNAL);
        char bytes[16];
        while (::recv(caller.get(), bytes, sizeof bytes, 0) > 0) {
        }
      } else {
        const std::string text = message_of<PeerError>([&] { TcpStore(options, soon()); });
        if (!contains(text, "another program")) throw std::runtime_error(text);
      }
    });
  }
}

TEST_CASE("TcpStore: both sides must know the secret") {
  TcpStoreOptions options = server_options();
  options.secret = "open sesame";
  TcpStore server(options);
  TcpStoreOptions other = client_options(server);
  CHECK(contains(message_of<UsageError>([&] { TcpStore(other, soon()); }), "another secret"));
  other.secret = "Open sesame";
  message_of<UsageError>([&] { TcpStore(other, soon()); });
  other.secret = "open sesame";
  TcpStore client(other);
  client.set("key", "value");
  CHECK(server.get("key") == "value");
  TcpStore open_server(server_options());
  other.port = open_server.port();
  message_of<UsageError>([&] { TcpStore(other, soon()); });
}

TEST_CASE("TcpStore: limits are errors that say so") {
  TcpStoreOptions options = server_options();
  options.limits.clients = 2;
  options.limits.key_bytes = 10;
  options.limits.value_bytes = 100;
  options.limits.stored_bytes = 150;
  options.limits.client_waits = 0;
  TcpStore server(options);
  TcpStore client(client_options(server));
  CHECK(contains(message_of<PeerError>([&] { TcpStore(client_options(server), soon()); }), "at most 2 clients"));
  CHECK(contains(message_of<UsageError>([&] { client.set(std::string(11, 'k'), ""); }),
                 "the key is too long; expected at most 10 bytes, got 11"));
  CHECK(contains(message_of<UsageError>([&] { client.set("k", std::string(101, 'v')); }),
                 "the value is too long; expected at most 100 bytes, got 101"));
  CHECK(contains(message_of<UsageError>([&] { client.wait(Strings(60, "k")); }), "the list of keys is too long"));
  client.set("a", std::string(100, 'v'));
  CHECK(contains(message_of<PeerError>([&] { client.set("b", std::string(100, 'v')); }), "holds as much as it may"));
  CHECK(contains(message_of<PeerError>([&] { client.get("never"); }), "too many waits"));
  CHECK(client.get("a") == std::string(100, 'v'));
}

TEST_CASE("TcpStore refuses options that make no sense") {
  CHECK(contains(message_of<UsageError>([] { TcpStore{TcpStoreOptions{}}; }), "no port to connect to"));
  TcpStore server(server_options());
  TcpStoreOptions taken = server_options();
  taken.port = server.port();
  CHECK(contains(message_of<allfold::SystemError>([&] { TcpStore{taken}; }), "cannot listen at 127.0.0.1:"));
  TcpStoreOptions no_socket = server_options();
  no_socket.listening_socket = 1 << 20;
  CHECK(contains(message_of<allfold::SystemError>([&] { TcpStore{no_socket}; }), "cannot duplicate"));
  no_socket.listening_socket = 0;
  const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  no_socket.listening_socket = file.get();
  CHECK(contains(message_of<allfold::SystemError>([&] { TcpStore{no_socket}; }), "cannot listen on the socket"));
}
