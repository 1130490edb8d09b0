#pragma once
// main() of the MPI tests: all ranks run the same cases in the same order; only rank 0 prints, others print failures.

#include <gtest/gtest.h>

#include <cstdio>

#include "comm/world.hpp"

namespace divergen::test {

inline comm::World*& world_slot() {
  static comm::World* world = nullptr;
  return world;
}
/// The ranks of this test program.
inline comm::World& world() { return *world_slot(); }

/// Ranks wait for each other after each case. A case that was left early on this rank (a failed ASSERT, an exception)
/// may have left the others in one of its collectives, for good: then all ranks end at once.
class AgreeAfterEachCase : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed() && !world().is_root())
      std::fprintf(stderr, "[rank %d] %s:%d\n%s\n", world().rank(), result.file_name() ? result.file_name() : "?",
                   result.line_number(), result.message());
  }
  void OnTestEnd(const testing::TestInfo& test) override {
    if (test.result()->HasFatalFailure() && world().size() > 1) {
      std::fprintf(stderr, "[rank %d] left %s.%s early: all ranks end\n", world().rank(), test.test_suite_name(),
                   test.name());
      world().abort(1);
    }
    world().barrier();
  }
};

inline int run_mpi_tests(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  comm::World ranks(&argc, &argv);
  world_slot() = &ranks;
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (!ranks.is_root()) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new AgreeAfterEachCase);
  const int failed = RUN_ALL_TESTS();
  return ranks.any(failed != 0) ? 1 : 0;
}

}  // namespace divergen::test

#define DIVERGEN_MPI_MAIN() \
  int main(int argc, char** argv) { return divergen::test::run_mpi_tests(argc, argv); }
