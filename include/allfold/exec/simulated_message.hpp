// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include <allfold/algo/message/endpoint.hpp>
#include <allfold/algo/message/reduction.hpp>
#include <allfold/base/hash.hpp>
#include <allfold/memory/block_pool.hpp>

namespace allfold::detail {

/// What a message is known by.
struct MessageKey {
  int source = 0;
  int target = 0;
  int call = 0;
  int sequence = 0;
  int step = 0;

  std::uint64_t hash() const noexcept {
    const auto word = [](int high, int low) {
      return static_cast<std::uint64_t>(static_cast<std::uint32_t>(high)) << 32 | static_cast<std::uint32_t>(low);
    };
    return hash_combine(hash_combine(word(source, target), word(call, sequence)), static_cast<std::uint32_t>(step));
  }
  friend bool operator==(const MessageKey&, const MessageKey&) = default;
};

/// Nodes (with a `key` and a `next`) that wait for their counterpart.
template <class Node>
class MatchTable {
 public:
  MatchTable() : buckets_(64) {}

  /// Whether it was put there: not if one of the same key is there already.
  bool put(Node* node) {
    if (size_ == buckets_.size()) grow();
    Node*& bucket = bucket_of(node->key);
    for (const Node* other = bucket; other != nullptr; other = other->next) {
      if (other->key == node->key) return false;
    }
    node->next = std::exchange(bucket, node);
    ++size_;
    return true;
  }

  /// The node of that key, which leaves the table; or null.
  Node* take(const MessageKey& key) noexcept {
    for (Node** link = &bucket_of(key); *link != nullptr; link = &(*link)->next) {
      if (!((*link)->key == key)) continue;
      --size_;
      return std::exchange(*link, (*link)->next);
    }
    return nullptr;
  }

  std::size_t size() const noexcept { return size_; }
  /// Any of them, or null.
  const Node* any() const noexcept {
    for (const Node* bucket : buckets_) {
      if (bucket != nullptr) return bucket;
    }
    return nullptr;
  }
  void clear() noexcept {
    for (Node*& bucket : buckets_) bucket = nullptr;
    size_ = 0;
  }

 private:
  Node*& bucket_of(const MessageKey& key) noexcept { return buckets_[key.hash() & (buckets_.size() - 1)]; }

  void grow() {
    const std::vector<Node*> old = std::exchange(buckets_, std::vector<Node*>(2 * buckets_.size()));
    for (Node* node : old) {
      while (node != nullptr) {
        Node* const next = node->next;
        node->next = std::exchange(bucket_of(node->key), node);
        node = next;
      }
    }
  }

  std::vector<Node*> buckets_;
  std::size_t size_ = 0;
};

/// Objects that are used again and keep their addresses. T has `in_use`.
template <class T>
class Recycled {
 public:
  T* take() {
    if (free_.empty()) {
      T* const made = &all_.emplace_back();
      made->in_use = true;
      return made;
    }
    T* const object = free_.back();
    free_.pop_back();
    *object = T();
    object->in_use = true;
    return object;
  }
  void give(T* object) {
    object->in_use = false;
    free_.push_back(object);
  }
  void clear() {
    free_.clear();
    all_.clear();
  }
  /// `visit(T&)` of all in use.
  template <class Visit>
  void for_each(Visit&& visit) {
    for (T& object : all_) {
      if (object.in_use) visit(object);
    }
  }

 private:
  std::deque<T> all_;
  std::vector<T*> free_;
};

/// A send or a receive that an algorithm started.
struct SimulatedOperation {
  MessageKey key;
  void* to = nullptr;
  std::size_t bytes = 0;
  Join* join = nullptr;
  SimulatedOperation* next = nullptr;
  bool is_send = false;
  bool over = false;
  bool ok = false;
  bool dropped = false;  ///< nobody asks for its outcome any more
  bool in_use = false;

  int rank() const noexcept { return is_send ? key.source : key.target; }
  int peer() const noexcept { return is_send ? key.target : key.source; }
};

/// What travels.
struct SimulatedMessage {
  MessageKey key;
  std::size_t bytes = 0;
  const void* from = nullptr;
  Block payload;                          ///< of an eager message
  SimulatedOperation* send = nullptr;     ///< null: eager
  SimulatedOperation* receive = nullptr;  ///< once they have met
  SimulatedMessage* next = nullptr;
  bool in_use = false;
};

/// A copy or a fold.
struct SimulatedWork {
  MessageReduction reduction{};  ///< without a fold: n bytes are copied
  FoldKind kind = FoldKind::values_to_value;
  std::vector<const void*> operands{};
  void* to = nullptr;
  std::size_t n = 0;
  SimulatedOperation* operation = nullptr;
  bool in_use = false;

  /// Bytes that are read.
  std::size_t bytes() const noexcept {
    if (reduction.fold == nullptr) return n;
    const bool values = kind == FoldKind::values_to_value || kind == FoldKind::values_to_partial;
    return operands.size() * n * (values ? reduction.value_bytes : reduction.partial_bytes);
  }

  void perform(int world_size) const {
    if (reduction.fold == nullptr) {
      std::memmove(to, operands[0], n);
    } else {
      reduction.fold(reduction.reduction, kind, operands.data(), static_cast<int>(operands.size()), to, n, world_size);
    }
  }
};

}  // namespace allfold::detail
