// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace allfold::detail {

/// What makes a message one of a call, from the highest bit: 1 bit for messages about failures, 8 of the communicator,
/// 6 of the channel; then 12 of the sequence number, 12 of what is called, 15 of the step; 10 of the sender. Messages
/// of users have a channel of their own, and 31 bits of tag and 8 of the type instead of those in the middle.
///
/// Numbers come again: messages of one sender with one tag are received in the order they were sent, so a rank may be
/// any number of calls ahead.
struct UcxTag {
  static constexpr int sender_bits = 10;
  static constexpr int communicators = 256;
  static constexpr int channels = 63;  ///< of collectives

  static constexpr std::uint64_t control = std::uint64_t{1} << 63;
  static constexpr std::uint64_t of_communicator = std::uint64_t{0xff} << 55;
  static constexpr std::uint64_t of_channel = std::uint64_t{0x3f} << 49;
  static constexpr std::uint64_t of_sequence = std::uint64_t{0xfff} << 37;
  static constexpr std::uint64_t of_record = std::uint64_t{0xfff} << 25;
  static constexpr std::uint64_t of_user_tag = std::uint64_t{0x7fffffff} << 18;
  static constexpr std::uint64_t of_user_type = std::uint64_t{0xff} << 10;
  static constexpr std::uint64_t of_sender = (std::uint64_t{1} << sender_bits) - 1;

  static constexpr std::uint64_t communicator(int id) noexcept {
    return static_cast<std::uint64_t>(id) << 55 & of_communicator;
  }
  /// `record`: a hash of what is called.
  static constexpr std::uint64_t call(int communicator_id, int channel, std::uint32_t sequence,
                                      std::uint64_t record) noexcept {
    return communicator(communicator_id) | (static_cast<std::uint64_t>(channel) << 49 & of_channel) |
           (std::uint64_t{sequence} << 37 & of_sequence) | (record << 25 & of_record);
  }
  static constexpr std::uint64_t user(int communicator_id, int tag, std::uint64_t type) noexcept {
    return communicator(communicator_id) | of_channel | (static_cast<std::uint64_t>(tag) << 18 & of_user_tag) |
           (type << 10 & of_user_type);
  }
  static constexpr std::uint64_t message(std::uint64_t call, int step, int sender) noexcept {
    return call | static_cast<std::uint64_t>(step & 0x7fff) << sender_bits |
           (static_cast<std::uint64_t>(sender) & of_sender);
  }
  static constexpr int sender(std::uint64_t tag) noexcept { return static_cast<int>(tag & of_sender); }
};

}  // namespace allfold::detail
