// soak_memory, the engine: 5,000 steps of the toy with checkpoints and lines of the log (a part of them by default)
// without growth of memory, descriptors or threads, on every rank.

#include "mpi/train/toy.hpp"
#include "support/full.hpp"
#include "support/soak.hpp"

namespace divergen::test {

using SoakMemory = ToyTraining;

TEST_F(SoakMemory, ToySteps) {
  const int steps = times(1500, 5000);
  auto set = options("soak", steps);
  set.settings.checkpoint_every = 100;
  set.settings.log_every = 20;
  ToyTask task(set.settings.batch);
  Soak soak;
  task.at_step = [&](std::int64_t iteration, int) {
    task.stream.clear();  // of the test, and would grow
    if (iteration % (steps / 50) == 0) soak.look(static_cast<double>(iteration));
  };
  ASSERT_EQ(run(set, task), steps);
  // The thread that writes a checkpoint, and its files.
  soak.expect_flat(cat("soak_memory, steps on rank ", world().rank(), " of ", world().size()).c_str(), 2);
}

}  // namespace divergen::test

DIVERGEN_MPI_MAIN()
