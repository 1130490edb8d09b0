"""A run that is killed or stopped ends, when started again, with exactly the numbers of one that was not."""

import signal
import unittest

import system


def some(folder, pattern):
    return any(folder.glob(pattern))


class Interrupt(unittest.TestCase):
    def kill_while(self, run, stage, at_work):
        """Starts the run and kills all of it while the stage has something, but not all, of its results.

        A stage may be over between the look and the kill; then its results are taken away, and it is tried again.
        """
        record = run / "stages" / f"{stage}.json"
        for _ in range(5):
            program = system.start("run", run)
            reached = program.wait_until(lambda: at_work() and not record.exists())
            killed = program.kill()
            self.assertTrue(reached, f"{stage} was never seen at work:\n{program.stderr}")
            self.assertGreater(killed, system.RANKS + 1)
            if not record.exists():
                return
            system.forget(run, stage)
        self.fail(f"{stage} was over each time before it could be killed")

    def test_kill9_in_every_stage(self):
        run = system.fresh("kill9") / "run"
        self.kill_while(run, "generate", lambda: some(run, "generate/shard-*.h5"))
        self.kill_while(run, "filter", lambda: some(run, "filter.scores/shard-*.h5"))
        self.kill_while(run, "pool", lambda: some(run, "pool/shard-*.h5"))
        self.kill_while(run, "train.baseline", lambda: some(run, "train/baseline/checkpoints/iter-*"))
        self.kill_while(run, "evaluate.baseline", lambda: some(run, "evaluate/baseline/parts/*.h5"))
        self.assertFalse((run / "metrics.json").exists())
        last = system.divergen("run", run)
        self.assertEqual(last.code, 0, last)
        self.assertEqual(system.results(run), system.results(system.REFERENCE))
        self.assertEqual(system.library_hash(run), system.library_hash(system.REFERENCE))
        verified = system.tool("verify", run)
        self.assertEqual(verified.code, 0, verified)

    def test_sigterm_in_training(self):
        run = system.copy_of_reference(system.fresh("stop"))
        system.forget(run, "train.divergen", "evaluate.divergen")
        (run / "metrics.json").unlink()
        training = system.start("train", run, "--training", "divergen")
        self.assertTrue(training.wait_until(lambda: some(run, "train/divergen/checkpoints/iter-*")), training.stderr)
        training.process.send_signal(signal.SIGTERM)
        stopped = training.end()
        self.assertEqual(stopped.code, system.STOPPED, stopped)
        self.assertIn("run the same command again", stopped.stderr)
        self.assertFalse((run / "stages/train.divergen.json").exists())
        rest = system.divergen("run", run)
        self.assertEqual(rest.code, 0, rest)
        self.assertEqual(system.results(run), system.results(system.REFERENCE))

    def test_second_driver_in_the_same_run(self):
        run = system.fresh("second_driver") / "run"
        first = system.start("run", run)
        self.assertTrue(first.wait_until(lambda: (run / "stages/plan.json").exists()), first.stderr)
        second = system.divergen("plan", run)
        self.assertEqual(second.code, system.BAD_DATA, second)
        self.assertIn(f"process {first.process.pid} ", second.stderr)
        self.assertIn(str(run), second.stderr)
        self.assertIsNone(first.process.poll(), "the first one is disturbed")
        # The signal may find the driver between two launches, or a rank before it can take it: then it is asked again.
        first.wait_until(lambda: "generate: loading" in first.stderr)
        first.process.send_signal(signal.SIGTERM)
        stopped = first.end()
        self.assertEqual(stopped.code, system.STOPPED, stopped)


if __name__ == "__main__":
    unittest.main()
