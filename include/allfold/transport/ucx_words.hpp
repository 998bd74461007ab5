// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <ucp/api/ucp.h>

#include <allfold/base/error.hpp>
#include <allfold/transport/ucx_failure.hpp>
#include <allfold/transport/ucx_tag.hpp>
#include <allfold/transport/ucx_worker.hpp>

namespace allfold::detail {

/// What ranks tell each other beside their calls.
struct UcxWord {
  enum class Kind : std::int32_t { none, leaves, failed };
  Kind kind = Kind::none;
  ErrorCode code{};
  std::int32_t source = -1;  ///< the rank to blame; -1: not known yet
  std::int32_t waits_for = -1;
  std::int32_t from = -1;
};

/// The words of one communicator's ranks: what this rank tells, and the last that each other has told.
class UcxWords {
 public:
  /// `tag`: of these messages alone.
  UcxWords(UcxWorker& worker, std::uint64_t tag)
      : worker_(worker), tag_(tag), word_of_(static_cast<std::size_t>(worker.world_size())) {}
  UcxWords(const UcxWords&) = delete;
  UcxWords& operator=(const UcxWords&) = delete;

  void tell_all(UcxWord word) {
    word.from = worker_.rank();
    ucp_request_param_t nothing{};
    // They outlive this call: UCX may still read them.
    told_ = word;
    for (int peer = 0; peer < worker_.world_size(); ++peer) {
      if (peer == worker_.rank() || worker_.broken(peer)) continue;
      const ucs_status_ptr_t request = ::ucp_tag_send_nbx(worker_.endpoint(peer), &told_, sizeof told_, tag_, &nothing);
      if (UCS_PTR_IS_PTR(request)) ::ucp_request_free(request);
    }
  }

  /// Takes what has come.
  void hear() {
    for (;;) {
      ucp_tag_recv_info_t info{};
      const ucp_tag_message_h message =
          ::ucp_tag_probe_nb(worker_.handle(), tag_, UcxTag::control | UcxTag::of_communicator, 1, &info);
      if (message == nullptr) return;
      UcxWord word;
      ucp_request_param_t nothing{};
      const ucs_status_ptr_t request = ::ucp_tag_msg_recv_nbx(worker_.handle(), &word, sizeof word, message, &nothing);
      if (UCS_PTR_IS_PTR(request)) {  // so short a message came with its announcement: this ends
        while (::ucp_request_check_status(request) == UCS_INPROGRESS) worker_.progress();
        ::ucp_request_free(request);
      }
      if (!UCS_PTR_IS_ERR(request) && word.from >= 0 && word.from < worker_.world_size()) {
        word_of_[static_cast<std::size_t>(word.from)] = word;
      }
    }
  }

  UcxWord::Kind kind(int peer) const noexcept { return word_of_[static_cast<std::size_t>(peer)].kind; }
  bool has_left(int peer) const noexcept { return kind(peer) == UcxWord::Kind::leaves; }
  bool silent(int peer) const noexcept { return peer != worker_.rank() && kind(peer) == UcxWord::Kind::none; }

  bool somebody_failed() const noexcept {
    for (const UcxWord& word : word_of_) {
      if (word.kind == UcxWord::Kind::failed) return true;
    }
    return false;
  }

  /// Somebody's word that names who is to blame.
  std::optional<UcxFailure> told_reason() const noexcept {
    for (const UcxWord& word : word_of_) {
      if (word.kind == UcxWord::Kind::failed && word.source >= 0) {
        return UcxFailure{word.code, word.source, has_left(word.source)};
      }
    }
    return std::nullopt;
  }

  /// Of a message from any rank, where all others have left.
  std::optional<UcxFailure> nobody_left() const noexcept {
    int last = -1;
    for (int peer = 0; peer < worker_.world_size(); ++peer) {
      if (peer == worker_.rank()) continue;
      if (!has_left(peer)) return std::nullopt;
      last = peer;
    }
    return last < 0 ? std::nullopt : std::optional(UcxFailure{ErrorCode::peer, last, true});
  }

  /// Who is to blame for a deadline that has passed: who is silent, and first of all a silent rank that somebody waits
  /// for. `waits_for`: whom this rank waits for, who is to blame where nobody is silent.
  int late_one(int waits_for) const noexcept {
    if (waits_for >= 0 && silent(waits_for)) return waits_for;
    for (const UcxWord& word : word_of_) {
      if (word.waits_for >= 0 && silent(word.waits_for)) return word.waits_for;
    }
    for (int peer = 0; peer < worker_.world_size(); ++peer) {
      if (silent(peer)) return peer;
    }
    return waits_for;
  }

 private:
  UcxWorker& worker_;
  std::uint64_t tag_;
  std::vector<UcxWord> word_of_;  ///< [rank]
  UcxWord told_;
};

}  // namespace allfold::detail
