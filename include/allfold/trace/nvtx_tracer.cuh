// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include <nvtx3/nvToolsExt.h>

#include <allfold/policy/tracer.hpp>

namespace allfold {

/// Shows what a communicator does in NVIDIA's tools (Nsight Systems): in the domain "allfold", a range for each
/// operation and wait, named for the operation, its element type and its algorithm, with the input's bytes as payload;
/// and a mark with the message where one fails. On a stream the range is the launch, beneath which a tool shows the
/// kernel. CPU ranks may have it too. In no umbrella: it needs the toolkit's nvtx3 headers (and no nvcc), and the
/// linker's
/// -ldl where the C library has no dlopen. Thread-safe.
/// Cost: without a tool, two readings of the clock and two calls through a null pointer.
class NvtxTracer {
 public:
  using policy_category = tracer_tag;
  static constexpr bool enabled = true;

  void open(int, int) { domain_.reset(nvtxDomainCreateA("allfold")); }

  /// Starts the event's range.
  std::uint64_t begin(const TraceEvent& event) noexcept {
    char text[128];
    std::size_t length = 0;
    const auto append = [&](std::string_view word) {
      if (word.empty()) return;
      if (length > 0 && length + 1 < sizeof text) text[length++] = ' ';
      length += word.copy(text + length, sizeof text - 1 - length);
    };
    if (event.kind == TraceKind::wait) append("wait for");
    for (const std::string_view word : {event.operation, event.type, event.reduction, event.algorithm}) append(word);
    text[length] = '\0';
    nvtxEventAttributes_t attributes = message_of(text);
    attributes.payloadType = NVTX_PAYLOAD_TYPE_UNSIGNED_INT64;
    attributes.payload.ullValue = event.in_bytes;
    return nvtxDomainRangeStartEx(domain_.get(), &attributes);
  }

  /// Ends it.
  void record(const TraceEvent& event) noexcept {
    if (event.mark != 0) nvtxDomainRangeEnd(domain_.get(), event.mark);
    if (!event.failed) return;
    char text[512];
    text[event.error.copy(text, sizeof text - 1)] = '\0';
    const nvtxEventAttributes_t attributes = message_of(text);
    nvtxDomainMarkEx(domain_.get(), &attributes);
  }

 private:
  struct Destroy {
    void operator()(nvtxDomainHandle_t domain) const noexcept { nvtxDomainDestroy(domain); }
  };

  static nvtxEventAttributes_t message_of(const char* text) noexcept {
    nvtxEventAttributes_t attributes = {};
    attributes.version = NVTX_VERSION;
    attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
    attributes.message.ascii = text;
    return attributes;
  }

  // Without a tool it stays null, which NVTX takes for its default domain, and drops.
  std::unique_ptr<nvtxDomainRegistration_st, Destroy> domain_;
};
static_assert(tracer_policy<NvtxTracer>);

}  // namespace allfold
