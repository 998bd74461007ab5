// SPDX-License-Identifier: Apache-2.0
#include <allfold/store/file.hpp>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <support/store_conformance.hpp>

using allfold::FileStore;
using namespace allfold_test;

namespace {

/// A directory that goes when its test ends.
struct Folder {
  std::string path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "allfold_store_XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

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

int exit_status(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

}  // namespace

TEST_CASE("FileStore is a store") {
  const Folder folder;
  check_store_conformance([&] { return FileStore(folder.path + "/store"); });
}

TEST_CASE("FileStore: several threads share one object") {
  const Folder folder;
  FileStore store(folder.path);
  check_shared_object(store);
}

TEST_CASE("FileStore: short keys are readable, long keys are hashed and kept in the file") {
  const Folder folder;
  FileStore store(folder.path);
  store.set("rank/0 ok", "value");
  CHECK(std::filesystem::file_size(folder.path + "/k.rank%2f0%20ok") == 5);
  const std::string key(300, 'x');
  store.set(key, "value");
  const std::string path = folder.path + '/' + allfold::detail::file_name(key);
  CHECK(allfold::detail::file_name(key).size() == 2 + 64);
  CHECK(std::filesystem::file_size(path) == 4 + 300 + 1 + 5);
  CHECK(store.get(key) == "value");
  std::ofstream(path) << "300\nsomething else";
  CHECK(contains(message_of<allfold::UsageError>([&] { store.get(key); }), "does not hold key"));
}

TEST_CASE("FileStore: processes add to one number") {
  const Folder folder;
  constexpr int processes = 4, rounds = 50;
  pid_t children[processes];
  for (pid_t& child : children) {
    child = in_child([&] {
      FileStore store(folder.path);
      for (int i = 0; i < rounds; ++i) store.add("sum", 1, soon());
    });
  }
  for (const pid_t child : children) CHECK(exit_status(child) == 0);
  CHECK(FileStore(folder.path).get("sum") == std::to_string(processes * rounds));
}

TEST_CASE("FileStore: a writer that is killed leaves no torn value and no lock") {
  const Folder folder;
  FileStore store(folder.path);
  const std::string a(200000, 'a'), b(100000, 'b');
  store.set("value", a);
  for (int i = 0; i < 10; ++i) {
    const pid_t child = in_child([&] {
      FileStore mine(folder.path);
      mine.set("started" + std::to_string(i), "");
      for (;;) {
        mine.set("value", a);
        mine.set("value", b);
      }
    });
    store.wait(Strings{"started" + std::to_string(i)}, soon());
    std::this_thread::sleep_for(std::chrono::microseconds(300 * i));
    ::kill(child, SIGKILL);
    exit_status(child);
    const std::string value = store.get("value", soon());
    CHECK((value == a || value == b));
    store.set("value", a, soon());
  }
}

TEST_CASE("FileStore: a writer waits for the lock no longer than its deadline") {
  const Folder folder;
  FileStore store(folder.path);
  store.set("key", "value");
  const allfold::UniqueFd lock(::open((folder.path + "/lock").c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(::flock(lock.get(), LOCK_EX) == 0);
  CHECK(
      contains(message_of<allfold::TimeoutError>([&] { store.set("key", "other", within_ms(30)); }), "another writer"));
  message_of<allfold::TimeoutError>([&] { store.add("n", 1, within_ms(5)); });
  CHECK(store.get("key") == "value");  // readers need no lock
  ::flock(lock.get(), LOCK_UN);
  store.set("key", "other");
  CHECK(store.get("key") == "other");
}

TEST_CASE("FileStore::connect meets in a directory of the job") {
  const Folder folder;
  allfold::Environment environment;
  environment.rank = 2;
  environment.world_size = 3;
  CHECK(contains(message_of<allfold::UsageError>([&] { FileStore::connect(environment, soon()); }),
                 "allfold: rank 2/3: FileStore::connect: no directory to meet in"));
  environment.meeting_directory = folder.path + "/meeting";
  environment.job = "job/1";
  FileStore a = FileStore::connect(environment, soon());
  FileStore b = FileStore::connect(environment, soon());
  environment.job = "job/2";
  FileStore other = FileStore::connect(environment, soon());
  a.set("key", "");
  CHECK(b.check(Strings{"key"}));
  CHECK_FALSE(other.check(Strings{"key"}));
}

TEST_CASE("FileStore refuses what is no directory") {
  const Folder folder;
  message_of<allfold::UsageError>([] { FileStore(""); });
  std::ofstream(folder.path + "/file") << "x";
  CHECK(contains(message_of<allfold::UsageError>([&] { FileStore(folder.path + "/file"); }), "expected a directory"));
  CHECK(contains(message_of<allfold::SystemError>([&] { FileStore(folder.path + "/no/parent"); }), "cannot create"));
}
