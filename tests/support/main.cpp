// SPDX-License-Identifier: Apache-2.0
#define DOCTEST_CONFIG_IMPLEMENT
#include <cstdio>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <support/skip.hpp>

namespace {

struct Skip {
  std::string test_case;
  std::string reason;
};

std::vector<Skip> skips;
std::string running;
unsigned selected_cases = 0;

/// Knows which case runs, and how many were selected.
struct Watch : doctest::IReporter {
  explicit Watch(const doctest::ContextOptions&) {}

  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats& stats) override { selected_cases = stats.numTestCasesPassingFilters; }
  void test_case_start(const doctest::TestCaseData& data) override { running = data.m_name; }
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats&) override {}
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}
};

}  // namespace

REGISTER_LISTENER("watch", 1, Watch);

void allfold_test::record_skip(const char* reason) { skips.push_back({running, reason}); }

int main(int argc, char** argv) {
  constexpr int skip_exit_code = 77;  // SKIP_RETURN_CODE in tests/CMakeLists.txt
  doctest::Context context(argc, argv);
  const int result = context.run();
  if (context.shouldExit() || result != 0) return result;
  if (selected_cases == 0) {
    std::fputs("no test case was selected, so nothing was tested\n", stderr);
    return 1;
  }
  for (const Skip& skip : skips) std::printf("skipped case: %s: %s\n", skip.test_case.c_str(), skip.reason.c_str());
  return skips.empty() ? 0 : skip_exit_code;
}
