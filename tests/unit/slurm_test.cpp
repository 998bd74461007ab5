// SPDX-License-Identifier: Apache-2.0
#include <optional>
#include <string>

#include <doctest/doctest.h>

#include <allfold/spawn/slurm.hpp>

using allfold::first_slurm_host;
using allfold::slurm_tasks_of_node;
using Host = std::optional<std::string>;

TEST_CASE("the first host of a host list") {
  CHECK(first_slurm_host("node7") == Host("node7"));
  CHECK(first_slurm_host("node7,node8") == Host("node7"));
  CHECK(first_slurm_host("node[01-03,7],gpu5") == Host("node01"));
  CHECK(first_slurm_host("node[7,01-03]") == Host("node7"));
  CHECK(first_slurm_host("node[0099-0100].cluster,x") == Host("node0099.cluster"));
  CHECK(first_slurm_host("rack[2-3]node[05,06]") == Host("rack2node05"));
  CHECK(first_slurm_host("a-b[3]") == Host("a-b3"));
}

TEST_CASE("a broken host list has no first host") {
  for (const char* list : {"", ",node1", "node[01-03", "node[]", "node[a-b]", "node[,1]", "node]", "no de", "[-3]"}) {
    CAPTURE(list);
    CHECK_FALSE(first_slurm_host(list).has_value());
  }
}

TEST_CASE("the tasks of a node") {
  CHECK(slurm_tasks_of_node("4", 0) == 4);
  CHECK(slurm_tasks_of_node("2(x3),1", 0) == 2);
  CHECK(slurm_tasks_of_node("2(x3),1", 2) == 2);
  CHECK(slurm_tasks_of_node("2(x3),1", 3) == 1);
  CHECK(slurm_tasks_of_node("1,8(x2)", 2) == 8);
}

TEST_CASE("a broken or short list has no tasks") {
  for (const char* list : {"", "x", "0", "2(x3),", "2(x", "2(x0)", "2(x2;1", "2(3),1", "2(x3)1", "-2(x9)"}) {
    CAPTURE(list);
    CHECK_FALSE(slurm_tasks_of_node(list, 3).has_value());
  }
  CHECK_FALSE(slurm_tasks_of_node("2(x3),1", 4).has_value());
}
