"""Signals, time limits, lost nodes, full disks, poisoned items, preemption: each ends as promised, with the right exit
code and message, and nothing is lost or done twice."""

import hashlib
import re
import time

import study
import system

# Every rank commits one shard and rests for ten seconds before the second: time to disturb it, on any machine.
REST = {"DIVERGEN_FAULT": "shard.start:pause:2"}


def weights_of(run, training):
    return hashlib.sha256((run / f"train/{training}/model.safetensors").read_bytes()).hexdigest()


# A shard takes minutes.
LONG = "[generators.sd]\nsteps = 1000\n[generators.deepfloyd]\nsteps = 1000\n"


class Survive(study.SlurmTest):
    def planned_run(self, name, text=""):
        """Planned and ready to generate, with a configuration of its own."""
        folder = system.fresh(name)
        config = self.config(folder / "run", text)
        planned = system.Program(system.BIN / "divergen", "plan", config, "--ranks", 1).end()
        self.assertEqual(planned.code, 0, planned)
        return folder / "run", config

    def assert_whole(self, run):
        """All of the plan was made, each shard whole."""
        self.assertEqual(self.shards(run), self.all_shards())
        self.assertEqual(system.read_json(run / "stages/generate.json")["items"], self.items())
        verified = system.tool("verify", run)
        self.assertEqual(verified.code, 0, verified)

    def test_term(self):
        """scancel --signal=TERM: ranks save within 20 s, the job is requeued and finishes."""
        run, config = self.planned_run("term")
        job = self.sbatch("generate", run, config=config, **REST)
        self.wait_until(lambda: self.shards(run) >= 1, what="a shard")
        asked = time.monotonic()
        self.cluster.command("scancel", "--signal=TERM", job)
        log = run / f"logs/generate-{job}.out"
        self.wait_until(lambda: "stopped early because of SIGTERM" in self.log(log), 30, "the end of the first start")
        self.assertLess(time.monotonic() - asked, 20 + 5)  # the log is looked at from outside
        self.wait(job)
        said = self.assert_job(job, "COMPLETED", 0, log)
        self.assertEqual(study.starts(said), 2)
        self.assertIn("SLURM_RESTART_COUNT=1", said)
        self.assert_whole(run)

    def test_term_in_a_long_item(self):
        """A shard that takes longer than the time there is: it is left, and the ranks are gone within 20 s."""
        run, config = self.planned_run("long_item", LONG + "[plan]\nshard_items = 24\n")
        job = self.sbatch("generate", run, config=config)
        log = run / f"logs/generate-{job}.out"
        self.wait_until(lambda: "shards to make" in self.log(log), what="work")
        time.sleep(2)
        asked = time.monotonic()
        self.cluster.command("scancel", "--signal=TERM", job)
        self.wait_until(lambda: "stopped early because of SIGTERM" in self.log(log), 40, "the end of the first start")
        self.assertLess(time.monotonic() - asked, 20 + 5)
        self.assertEqual(self.shards(run), 0)
        self.assertNotIn("crash loop", self.log(log))
        self.cluster.command("scancel", job)
        self.wait(job)

    def test_requeue_in_the_middle(self):
        """scontrol requeue: Slurm kills the start, the next one goes on."""
        run, config = self.planned_run("requeue")
        job = self.sbatch("generate", run, config=config, **REST)
        self.wait_until(lambda: self.shards(run) >= 1, what="a shard")
        self.cluster.command("scontrol", "requeue", job, check=True)
        self.wait(job)
        said = self.assert_job(job, "COMPLETED", 0, run / f"logs/generate-{job}.out")
        self.assertEqual(study.starts(said), 2)
        self.assert_whole(run)

    def test_lost_node(self):
        """One slurmd and all its ranks are gone: Slurm requeues, and the job finishes when the node is back."""
        run, config = self.planned_run("lost_node")
        job = self.sbatch("generate", run, config=config, **REST)
        self.wait_until(lambda: self.shards(run) >= 1, what="a shard")
        self.cluster.kill_node("n2")
        self.wait_until(lambda: self.cluster.state(job)[0] == "PENDING", 120, "the requeue")
        self.cluster.start_node("n2")
        self.wait(job)
        said = self.assert_job(job, "COMPLETED", 0, run / f"logs/generate-{job}.out")
        self.assertGreaterEqual(study.starts(said), 2)
        self.assert_whole(run)

    def test_full_disk_on_one_node(self):
        """No space on n2 alone: exit code 74, the node and file named, no requeue; it goes on when there is room."""
        run, config = self.planned_run("full_disk")
        folder = run / "generate"
        folder.mkdir()
        self.cluster.in_node("n2", "mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", folder)
        job = self.sbatch("generate", run, config=config)
        self.wait(job)
        said = self.assert_job(job, "FAILED", study.INPUT_OUTPUT, run / f"logs/generate-{job}.out")
        self.assertIn("space", said.lower())
        self.assertIn(str(folder), said)
        self.assertEqual(study.starts(said), 1)
        self.cluster.in_node("n2", "umount", folder)
        job = self.sbatch("generate", run, config=config)
        self.wait(job)
        self.assert_job(job, "COMPLETED", 0, run / f"logs/generate-{job}.out")
        self.assert_whole(run)

    def test_crash_loop(self):
        """An item that kills its rank each time: two starts without progress, then the end, with the cause named."""
        run, config = self.planned_run("crash_loop")
        job = self.sbatch("generate", run, config=config, DIVERGEN_FAULT="shard.start:kill:1")
        self.wait(job)
        said = self.assert_job(job, "FAILED", study.BUG, run / f"logs/generate-{job}.out")
        self.assertEqual(study.starts(said), 2)
        self.assertRegex(said, "crash loop: 2 starts in a row committed nothing.*killed by signal 9")
        # The poison is gone: the next submission begins to count anew.
        job = self.sbatch("generate", run, config=config)
        self.wait(job)
        self.assert_job(job, "COMPLETED", 0, run / f"logs/generate-{job}.out")
        self.assert_whole(run)

    def test_crash_with_progress(self):
        """A rank that dies now and then, but each time after some work: requeued until all is made."""
        run, config = self.planned_run("crash")
        job = self.sbatch("generate", run, config=config, DIVERGEN_FAULT="shard.start:kill:3")
        self.wait(job)
        said = self.assert_job(job, "COMPLETED", 0, run / f"logs/generate-{job}.out")
        self.assertGreaterEqual(study.starts(said), 2)
        self.assert_whole(run)

    def test_item_longer_than_the_limit(self):
        """The time limit is too short for one shard: no endless requeueing, and the message says what to raise."""
        run, config = self.planned_run("too_long", LONG + "[plan]\nshard_items = 48\n")
        job = self.sbatch("generate", run, "--time=1", "--signal=B:USR2@50", config=config)
        self.wait(job)
        said = self.assert_job(job, "FAILED", study.BUG, run / f"logs/generate-{job}.out")
        self.assertRegex(said, "crash loop: 2 starts in a row committed nothing.*raise --time")

    def test_preemption(self):
        """A job of high priority takes the nodes: the other one saves within its grace, is requeued, and finishes."""
        run, config = self.planned_run("preempted")
        job = self.sbatch("generate", run, "--exclusive", config=config, **REST)
        self.wait_until(lambda: self.shards(run) >= 1, what="a shard")
        asked = time.monotonic()
        urgent = self.cluster.command("sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null",
                                      "--wrap", "sleep 5", check=True).strip()
        self.wait_until(lambda: self.cluster.state(urgent)[0] == "RUNNING", 60, "the urgent job")
        self.assertLess(time.monotonic() - asked, 25 + 10)  # GraceTime, and the scheduler's rhythm
        log = run / f"logs/generate-{job}.out"
        self.assertIn("stopped early because of SIGTERM", self.log(log))
        self.wait([job, urgent])
        said = self.assert_job(job, "COMPLETED", 0, log)
        self.assertEqual(study.starts(said), 2)
        self.assert_job(urgent, "COMPLETED", 0)
        self.assert_whole(run)


class Walltime(study.SlurmTest):
    def test_walltime(self):
        """One-minute limits: the chain requeues itself at least three times, no job ends by its time limit, and what
        comes out is what an undisturbed run makes."""
        folder = system.fresh("walltime")
        # Sizes that take a good minute on this machine, whatever it is; small shards, because one must fit into a start.
        small = "[plan]\nshard_items = 2\n[generators.sd]\nbatch = 2\n"
        probe = self.config(folder / "probe", small + "steps = 30\n")
        for stage in ("plan", "generate"):
            outcome = system.Program(system.BIN / "divergen", stage, probe, "--ranks", 2).end(600)
            self.assertEqual(outcome.code, 0, outcome)
        steps = max(3, min(1000, round(30 * 100 / system.read_json(folder / "probe/stages/generate.json")["seconds"])))
        training = system.read_json(system.REFERENCE / "stages/train.divergen.json")["seconds"]
        iterations = max(24, round(12 * 70 / training) // 4 * 4)
        config = self.config(folder / "undisturbed", f"{small}steps = {steps}\n[train]\niterations = {iterations}\n")
        study.local_run(folder / "undisturbed", config)
        run = folder / "run"
        # generate has only its clock, train is warned in the middle of its minute.
        jobs = self.submit(run, "--sbatch", "--time=1", "--sbatch", "generate:--signal=B:USR2@1", "--sbatch",
                           "train:--signal=B:USR2@30", config=config)
        self.wait(jobs.values(), 1500)
        logs = {label: self.assert_job(job, "COMPLETED", 0, run / "logs" / f"{label}-*.out") for label, job in jobs.items()}
        restarts = {label: study.starts(text) - 1 for label, text in logs.items()}
        self.assertGreaterEqual(sum(restarts.values()), 3, restarts)
        self.assertGreaterEqual(restarts["generate"] + restarts["train.divergen"] + restarts["train.baseline"], 3, restarts)
        self.assertIn("because of the time limit", logs["generate"])
        ends = self.cluster.finished()
        self.assertNotIn("TIMEOUT", {state for states in ends.values() for state in states}, ends)
        self.assertEqual(system.library_hash(run), system.library_hash(folder / "undisturbed"))
        for training in ("baseline", "divergen"):
            self.assertEqual(weights_of(run, training), weights_of(folder / "undisturbed", training))
        self.assertEqual(system.results(run), system.results(folder / "undisturbed"))
        print("restarts:", {label: count for label, count in restarts.items() if count}, "steps", steps, "iterations",
              iterations, re.findall("committed: .*", logs["generate"]))


if __name__ == "__main__":
    study.main()
