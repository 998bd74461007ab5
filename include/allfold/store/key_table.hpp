// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <allfold/base/concat.hpp>
#include <allfold/base/hash.hpp>
#include <allfold/store/common.hpp>

namespace allfold::detail {

/// What a store in memory holds: a chained hash table, which compiles faster than std::map. Not thread safe: its
/// owner guards it.
class KeyTable {
 public:
  KeyTable() : buckets_(new Node*[8]{}) {}
  KeyTable(const KeyTable&) = delete;
  KeyTable& operator=(const KeyTable&) = delete;
  ~KeyTable() {
    for (std::size_t i = 0; i <= mask_; ++i) {
      while (Node* const node = buckets_[i]) {
        buckets_[i] = node->next;
        delete node;
      }
    }
    delete[] buckets_;
  }

  /// Bytes of all keys and values.
  std::size_t bytes() const noexcept { return bytes_; }
  bool contains(std::string_view key) const noexcept { return find(key) != nullptr; }

  /// The value, or null.
  const std::string* find(std::string_view key) const noexcept {
    const Node* const node = *link(key, hash(key));
    return node == nullptr ? nullptr : &node->value;
  }

  ALLFOLD_COLD void set(std::string_view key, std::string_view value) {
    const std::uint64_t its_hash = hash(key);
    if (Node* const node = *link(key, its_hash)) {
      const std::size_t old = node->value.size();
      node->value = value;
      bytes_ += value.size() - old;
      return;
    }
    if (count_ > mask_) grow();
    Node* const node = new Node{nullptr, its_hash, std::string(key), std::string(value)};
    *link(key, its_hash) = node;
    bytes_ += key.size() + value.size();
    ++count_;
  }

  ALLFOLD_COLD bool erase(std::string_view key) {
    Node** const at = link(key, hash(key));
    Node* const node = *at;
    if (node == nullptr) return false;
    *at = node->next;
    bytes_ -= node->key.size() + node->value.size();
    --count_;
    delete node;
    return true;
  }

  /// Leaves the table as it was unless it answers ok.
  ALLFOLD_COLD Addition add(std::string_view key, std::int64_t n, std::int64_t& sum) {
    const std::string* value = find(key);
    const Addition outcome = add_decimal(value == nullptr ? std::string_view("0") : std::string_view(*value), n, sum);
    if (outcome == Addition::ok) set(key, concat({static_cast<long long>(sum)}));
    return outcome;
  }

  /// Returns whether it set `desired`.
  ALLFOLD_COLD bool compare_set(std::string_view key, std::string_view expected, std::string_view desired) {
    const std::string* value = find(key);
    if ((value == nullptr ? std::string_view() : std::string_view(*value)) != expected) return false;
    set(key, desired);
    return true;
  }

 private:
  struct Node {
    Node* next;
    std::uint64_t hash;
    std::string key;
    std::string value;
  };

  /// Seeded with an address, so that a stranger cannot choose keys that fall into one bucket.
  std::uint64_t hash(std::string_view key) const noexcept {
    return hash_mix(fnv1a(key, hash_mix(reinterpret_cast<std::uintptr_t>(this))));
  }

  /// The link that leads to the key's node, or where it would be added.
  ALLFOLD_COLD Node** link(std::string_view key, std::uint64_t its_hash) const noexcept {
    Node** at = &buckets_[its_hash & mask_];
    while (*at != nullptr && ((*at)->hash != its_hash || (*at)->key != key)) at = &(*at)->next;
    return at;
  }

  ALLFOLD_COLD void grow() {
    const std::size_t mask = mask_ * 2 + 1;
    Node** const buckets = new Node* [mask + 1] {};
    for (std::size_t i = 0; i <= mask_; ++i) {
      while (Node* const node = buckets_[i]) {
        buckets_[i] = node->next;
        node->next = buckets[node->hash & mask];
        buckets[node->hash & mask] = node;
      }
    }
    delete[] buckets_;
    buckets_ = buckets;
    mask_ = mask;
  }

  Node** buckets_;
  std::size_t mask_ = 7;  // buckets - 1, a power of two less one
  std::size_t count_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace allfold::detail
