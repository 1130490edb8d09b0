"""Many real MPI ranks on few processors: correctness, not speed."""

import json
import subprocess
import time

import study


class Scale(study.SlurmTest):
    def run_queue(self, ranks, items, microseconds, seconds):
        program = study.system.BIN.parent / "tests/queue_program"
        start = time.monotonic()
        done = subprocess.run(["srun", "--mpi=pmix", "--nodes=2", f"--ntasks={ranks}", "--overcommit", "--time=10",
                               "--kill-on-bad-exit=1", str(program), str(items), str(microseconds)],
                              env=dict(self.cluster.environment, OMP_NUM_THREADS="1"), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=seconds)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        result = json.loads(done.stdout.strip().splitlines()[-1])
        print(result, f"{time.monotonic() - start:.1f} s")
        self.assertEqual((result["ranks"], result["items"], result["lost"], result["twice"]), (ranks, items, 0, 0))
        return result

    def test_16_ranks(self):
        self.assertGreaterEqual(self.run_queue(16, 4000, 2000, 100)["working_ranks"], 12)

    def test_128_ranks(self):
        self.assertGreaterEqual(self.run_queue(128, 20000, 20000, 500)["working_ranks"], 100)


if __name__ == "__main__":
    study.main()
