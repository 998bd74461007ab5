// SPDX-License-Identifier: Apache-2.0
#include <allfold/store/sha256.hpp>

#include <string>

#include <doctest/doctest.h>

using namespace allfold::detail;

namespace {

std::string hex(const Digest& digest) {
  std::string out;
  for (const unsigned char byte : digest) out += {"0123456789abcdef"[byte / 16], "0123456789abcdef"[byte % 16]};
  return out;
}

}  // namespace

TEST_CASE("SHA-256 agrees with FIPS 180-4") {
  CHECK(hex(sha256("")) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(hex(sha256("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(hex(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(hex(sha256(std::string(1000000, 'a'))) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("SHA-256 does not depend on how its input is cut") {
  std::string text;
  for (int i = 0; i < 200; ++i) text += static_cast<char>(i);
  for (std::size_t size = 0; size <= text.size(); ++size) {
    const std::string_view all = std::string_view(text).substr(0, size);
    for (const std::size_t cut : {std::size_t{1}, size / 3, size / 2, size}) {
      Sha256 hash;
      hash.update(all.substr(0, cut));
      hash.update(cut < size ? all.substr(cut) : std::string_view());
      CHECK(hash.finish() == sha256(all));
    }
  }
}

TEST_CASE("HMAC-SHA256 agrees with RFC 4231") {
  CHECK(hex(hmac_sha256(std::string(20, '\x0b'), "Hi There")) ==
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  CHECK(hex(hmac_sha256("Jefe", "what do ya want for nothing?")) ==
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  CHECK(hex(hmac_sha256(std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First")) ==
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
  CHECK(hex(hmac_sha256("", "")) == "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

TEST_CASE("equal_in_constant_time compares whole texts") {
  CHECK(equal_in_constant_time("", ""));
  CHECK(equal_in_constant_time("abc", "abc"));
  CHECK_FALSE(equal_in_constant_time("abc", "abd"));
  CHECK_FALSE(equal_in_constant_time("abc", "xbc"));
  CHECK_FALSE(equal_in_constant_time("abc", "abcd"));
}
