"""The training, from outside: asked to stop at random moments, poisoned, and measured by the evaluator alone."""

import json
import os
import pathlib
import random
import signal
import time
import unittest

import system

ALLOWED = 5  # seconds: reference/reliability.md §6, term_to_exit, for the toy
FULL = os.environ.get("DIVERGEN_FULL") == "1"
RANKS = 3
LONG = ("--set", "train.iterations=100000", "--set", "train.checkpoint_every=50", "--set", "train.batch=3",
        "--set", "train.log_every=20")


def slowness():
    """How much longer work takes here than the processor is at it: 1 on a machine that has nothing else to do."""
    start, used = time.monotonic(), time.process_time()
    while time.process_time() - used < 0.1:
        pass
    return max(1.0, (time.monotonic() - start) / 0.1)


def prepared(name):
    """A run where all but the training is done."""
    run = system.copy_of_reference(system.fresh(name))
    system.forget(run, "train.baseline", "evaluate.baseline")
    return run


def start(run):
    return system.start("train", run, "--training", "baseline", *LONG, ranks=RANKS)


def rank_pids(program):
    """Processes of the ranks, in order: the worker writes who it is into its environment."""
    found = {}
    for pid in system._descendants(program.process.pid):
        try:
            environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = [one for one in environment if one.startswith(b"OMPI_COMM_WORLD_RANK=")]
        if rank and command[0].endswith(b"divergen-worker"):
            found[int(rank[0].partition(b"=")[2])] = pid
    return [found[rank] for rank in sorted(found)]


def newest_state(run):
    """state.json of the newest checkpoint, which must be whole."""
    checkpoints = sorted((run / "train/baseline/checkpoints").glob("iter-*"))
    return system.read_json(checkpoints[-1] / "state.json")


class Training(unittest.TestCase):
    def reach_a_step(self, program, run):
        """Waits for the first line of the log: from here on the training is at work."""
        log = run / "train/baseline/log.jsonl"
        before = log.read_text().count("\n") if log.exists() else 0
        reached = program.wait_until(lambda: log.exists() and log.read_text().count("\n") > before)
        self.assertTrue(reached, program.stderr)

    def expect_stop(self, program, run, asked):
        """In time, with the right code, and with a checkpoint of the step it stopped at."""
        stopped = program.end()
        seconds = time.monotonic() - asked
        allowed = ALLOWED * slowness()
        self.assertLessEqual(seconds, allowed)
        self.assertEqual(stopped.code, system.STOPPED, stopped)
        self.assertIn("run the same command again", stopped.stderr)
        self.assertFalse((run / "stages/train.baseline.json").exists())
        step = newest_state(run)["iteration"]
        self.assertIn(f"step {step} of 100000 is saved", stopped.stderr)
        return seconds, step

    def test_term_to_exit(self):
        """SIGTERM, SIGUSR2 and the stop file in turn, each start going on from where the one before stopped."""
        draw = random.Random(50)
        run = prepared("term_to_exit")
        waits, last = [], 0
        for n in range(50 if FULL else 3):
            program = start(run)
            self.reach_a_step(program, run)
            time.sleep(draw.uniform(0, 1))
            asked = time.monotonic()
            if n % 3 == 2:
                (run / "STOP").touch()
            else:
                program.process.send_signal(signal.SIGTERM if n % 3 == 0 else signal.SIGUSR2)
            seconds, step = self.expect_stop(program, run, asked)
            if n % 3 == 2:
                (run / "STOP").unlink(missing_ok=True)
            self.assertGreater(step, last)
            if last:
                self.assertIn(f"goes on at iteration {last} ", program.stderr)
            waits.append(seconds)
            last = step
        print(f"term_to_exit: {len(waits)} stops, the longest took {max(waits):.2f} s")
        verified = system.tool("verify", run)
        self.assertEqual(verified.code, 0, verified)

    def test_one_rank_signalled(self):
        """The signal goes to one rank alone, each in turn: all of them stop, at the same step."""
        run = prepared("one_rank_signalled")
        for rank in range(RANKS):
            program = start(run)
            self.reach_a_step(program, run)
            pids = rank_pids(program)
            self.assertEqual(len(pids), RANKS)
            asked = time.monotonic()
            os.kill(pids[rank], signal.SIGUSR2)
            self.expect_stop(program, run, asked)
            self.assertFalse(any(system._is_alive(pid) for pid in pids))

    def test_evaluator_alone_gives_the_same_numbers(self):
        """What evaluate wrote is read by `divergen lvis-eval`, to the last digit."""
        ours = system.read_json(system.REFERENCE / "evaluate/divergen/metrics.json")
        folder = system.fresh("lvis_eval")
        for kind in ("bbox", "segm"):
            out = folder / f"{kind}.json"
            ended = system.tool("lvis-eval", "--gt", system.WORLD / "val.json", "--dt",
                                system.REFERENCE / f"evaluate/divergen/results.{kind}.json", "--iou-type", kind,
                                "--out", out)
            self.assertEqual(ended.code, 0, ended)
            theirs = json.dumps(system.read_json(out))
            for name, value in ours[kind].items():
                self.assertIn(f'"{name}": {json.dumps(value)}', theirs, f"{kind} {name}")


if __name__ == "__main__":
    unittest.main()
