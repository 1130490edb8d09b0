"""What the tests of Slurm share: the small study of tests/e2e, submitted to a cluster of their own.

Run directories lie below DIVERGEN_E2E_DIR, which is a folder of these tests alone. `reference` (ctest runs it first)
makes the small world and the undisturbed run that the others compare with.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

import system  # noqa: E402
from cluster import Cluster, missing  # noqa: E402

SKIPPED = 77  # ctest's SKIP_RETURN_CODE
BUG, INPUT_OUTPUT, STOPPED = 70, 74, 75

# Two nodes with one rank each; every test may put more over it.
SMALL = ["--sbatch", "--nodes=2", "--sbatch", "--ntasks-per-node=1", "--sbatch", "--cpus-per-task=1",
         "--sbatch", "--time=10", "--sbatch", "--partition=low",
         "--sbatch", "plan:--nodes=1", "--sbatch", "report:--nodes=1"]


def main():
    why = missing()
    if why:
        print(f"skipped: {why}")
        sys.exit(SKIPPED)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unittest then cleans up like after any error
    unittest.main(verbosity=2)


class SlurmTest(unittest.TestCase):
    """Each test has a cluster of its own, which is gone afterwards however the test ends."""

    def setUp(self):
        if not (system.HOME / "e2e.toml").exists():
            self.fail("run the test slurm.reference first")
        self.cluster = Cluster().start()
        self.addCleanup(self.cluster.stop)

    def divergen(self, *command, check=None):
        done = subprocess.run([str(system.BIN / "divergen"), *map(str, command)], env=self.cluster.environment,
                              cwd=system.SOURCE, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        if check is not None:
            self.assertEqual(done.returncode, check, done.stdout + done.stderr)
        return done

    def submit(self, run, *options, config=None, small=SMALL):
        """Submits the study; ids of its jobs by label."""
        self.divergen("submit", config or system.HOME / "e2e.toml", "--set", f"run.dir={run}", *small, *options, check=0)
        jobs = system.read_json(run / "slurm/jobs.json")["jobs"]
        return {job["label"]: job["job"] for job in jobs}

    def sbatch(self, stage, run, *options, config=None, training=None, **environment):
        """One stage by hand, as slurm/README.md shows it; its job."""
        run.mkdir(parents=True, exist_ok=True)
        (run / "logs").mkdir(exist_ok=True)
        command = ["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=10",
                   f"--output={run}/logs/{stage}-%j.out", f"--chdir={system.SOURCE}",
                   "--export=" + ",".join(["ALL", f"DIVERGEN_BIN={system.BIN}",
                                           f"DIVERGEN_SLURM={system.SOURCE}/slurm",
                                           *(f"{name}={value}" for name, value in environment.items())]),
                   *options, system.SOURCE / "slurm" / f"{stage}.sbatch", config]
        return self.cluster.command(*command, *([training] if training else []), check=True).strip()

    def config(self, run, text=""):
        """The small study with a run directory of its own, and more lines."""
        run.parent.mkdir(parents=True, exist_ok=True)
        file = run.parent / f"{run.name}.toml"
        file.write_text(f'base = "{system.HOME}/e2e.toml"\n[run]\ndir = "{run}"\n{text}')
        return file

    def wait(self, jobs, seconds=800):
        jobs = [jobs] if isinstance(jobs, str) else list(jobs)
        if not self.cluster.wait_for_jobs(jobs, seconds):
            states = {job: self.cluster.state(job) for job in jobs}
            self.fail(f"not over after {seconds} s: {states}\n{self.cluster.logs()}")

    def wait_until(self, condition, seconds=300, what="it"):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                self.fail(f"{what} did not come within {seconds} s\n{self.cluster.command('squeue')}\n"
                          f"{self.cluster.logs()}")
            time.sleep(0.1)

    def assert_job(self, job, state, code=None, log=None):
        """How a job ended, and what its log says."""
        said = self.log(log) if log else ""
        found = self.cluster.state(job)
        self.assertEqual(found[0], state, f"{found}\n{said}\n{self.cluster.logs()}")
        if code is not None:
            self.assertEqual(found[3], f"{code}:0", f"{found}\n{said}")
        return said

    def log(self, pattern):
        files = sorted(pattern.parent.glob(pattern.name))
        return "\n".join(file.read_text(errors="replace") for file in files)

    def items(self):
        """Of the small study's plan."""
        return system.read_json(system.REFERENCE / "stages/plan.json")["items"]

    def all_shards(self):
        return self.shards(system.REFERENCE)

    def shards(self, run, stage="generate"):
        return len(list((run / stage).glob("shard-*.h5")))


def use_world(run):
    """A run directory where the plan is there and nothing else."""
    outcome = system.divergen("plan", run, ranks=1)
    assert outcome.code == 0, outcome


def local_run(run, config):
    """The same study without Slurm, undisturbed."""
    outcome = system.Program(system.BIN / "divergen", "run", config, "--ranks", 2, "--set", f"run.dir={run}").end(1500)
    assert outcome.code == 0, outcome


def starts(log):
    """Number of banners in a log."""
    return log.count("(SLURM_RESTART_COUNT=")


def environment(name, default):
    return os.environ.get(name, default)
