// SPDX-License-Identifier: Apache-2.0
// What NvtxTracer tells a tool: here the tool is this test, and the ranks compute on CPU cores, so it needs no GPU.
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nvtx3/nvToolsExt.h>

#include <allfold/allfold.cuh>
#include <allfold/trace/nvtx_tracer.cuh>

#include <support/ranks.hpp>

namespace {

struct Range {
  std::string text;
  std::uint64_t bytes = 0;
  int ended = 0;
};

/// All that NVTX was told; ranks are threads.
struct Tool {
  std::mutex mutex;
  std::vector<std::string> domains;
  int destroyed = 0;
  std::map<std::uint64_t, Range> ranges;
  std::vector<std::string> marks;

  std::map<std::string, int> ended_ranges() {
    std::map<std::string, int> counts;
    for (const auto& [id, range] : ranges) counts[range.text] += range.ended;
    return counts;
  }
};

Tool tool;
int a_domain;

nvtxDomainHandle_t create_domain(const char* name) {
  const std::lock_guard lock(tool.mutex);
  tool.domains.emplace_back(name);
  return reinterpret_cast<nvtxDomainHandle_t>(&a_domain);
}

void destroy_domain(nvtxDomainHandle_t domain) {
  const std::lock_guard lock(tool.mutex);
  tool.destroyed += domain == reinterpret_cast<nvtxDomainHandle_t>(&a_domain) ? 1 : 0;
}

nvtxRangeId_t start_range(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* attributes) {
  const std::lock_guard lock(tool.mutex);
  const std::uint64_t id = tool.ranges.size() + 100;
  const bool good =
      domain == reinterpret_cast<nvtxDomainHandle_t>(&a_domain) && attributes->messageType == NVTX_MESSAGE_TYPE_ASCII;
  tool.ranges[id] = {good ? attributes->message.ascii : "?", attributes->payload.ullValue};
  return id;
}

void end_range(nvtxDomainHandle_t, nvtxRangeId_t id) {
  const std::lock_guard lock(tool.mutex);
  ++tool.ranges[id].ended;
}

void mark(nvtxDomainHandle_t, const nvtxEventAttributes_t* attributes) {
  const std::lock_guard lock(tool.mutex);
  tool.marks.emplace_back(attributes->message.ascii);
}

template <class Function>
void put(NvtxFunctionTable table, NvtxCallbackIdCore2 id, Function* function) {
  *table[id] = reinterpret_cast<NvtxFunctionPointer>(function);
}

/// NVTX calls it before the first of its functions does anything.
int attach_tool(NvtxGetExportTableFunc_t export_table) {
  const auto* const callbacks = static_cast<const NvtxExportTableCallbacks*>(export_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned size = 0;
  if (callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) == 0) return 0;
  put(table, NVTX_CBID_CORE2_DomainCreateA, create_domain);
  put(table, NVTX_CBID_CORE2_DomainDestroy, destroy_domain);
  put(table, NVTX_CBID_CORE2_DomainRangeStartEx, start_range);
  put(table, NVTX_CBID_CORE2_DomainRangeEnd, end_range);
  put(table, NVTX_CBID_CORE2_DomainMarkEx, mark);
  return 1;
}

const bool attached = (InitializeInjectionNvtx2_fnptr = attach_tool) != nullptr;

}  // namespace

TEST_CASE("each operation is a range, named and ended, and a failure is a mark") {
  REQUIRE(attached);
  using Comm = allfold::Communicator<allfold::NvtxTracer>;
  allfold_test::over_threads({2}, [](const allfold::Environment& environment) {
    auto comm = Comm::create(environment);
    std::vector<float> data(10);
    comm.all_reduce(data, allfold::sum, {.algorithm = allfold::Algorithm::two_shot});
    comm.barrier();
    if (environment.rank == 0) {
      EXPECT_THROWS_AS(comm.barrier(), allfold::MismatchError);
    } else {
      EXPECT_THROWS_AS(comm.all_reduce(data, allfold::sum), allfold::MismatchError);
    }
  });
  CHECK(tool.domains == std::vector<std::string>{"allfold", "allfold"});
  CHECK(tool.destroyed == 2);
  const std::map<std::string, int> ended = tool.ended_ranges();
  CHECK(ended.at("all_reduce float sum two_shot") == 2);
  CHECK(ended.at("barrier") == 3);
  CHECK(tool.ranges.size() == 6);
  for (const auto& [id, range] : tool.ranges) {
    CHECK(range.ended == 1);
    CHECK(range.bytes == (range.text == "barrier" ? 0 : 40));
  }
  REQUIRE(tool.marks.size() == 2);
  for (const std::string& text : tool.marks) CHECK(text.find("ranks disagree in call 3") != std::string::npos);
}

TEST_CASE("a wait says so, and long names are cut") {
  tool.ranges.clear();
  allfold::NvtxTracer tracer;
  tracer.open(0, 1);
  const std::string longest(200, 'x');
  allfold::TraceEvent event;
  event.kind = allfold::TraceKind::wait;
  event.operation = "send";
  allfold::begin_trace(tracer, event);
  allfold::end_trace(tracer, event);
  event.kind = allfold::TraceKind::operation;
  event.type = longest;
  allfold::begin_trace(tracer, event);
  allfold::end_trace(tracer, event, "an error " + std::string(1000, 'y'));
  tracer.record({});  // it was never begun
  REQUIRE(tool.ranges.size() == 2);
  CHECK(tool.ranges[100].text == "wait for send");
  CHECK(tool.ranges[101].text == "send " + longest.substr(0, 122));
  CHECK(tool.marks.back().size() == 511);
}
