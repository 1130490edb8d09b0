"""The whole study through `divergen submit` on two nodes, and the ways of submitting it."""

import json
import tomllib

import study
import system


class Reference(study.unittest.TestCase):
    def test_reference(self):
        """The small world, and the undisturbed local run that the others compare with."""
        made = system.make_world()
        self.assertEqual(made.code, 0, made)
        study.local_run(system.REFERENCE, system.HOME / "e2e.toml")


class Chain(study.SlurmTest):
    def test_chain(self):
        """sbatch, srun --mpi=pmix, two nodes: the same library and the same averages as mpirun on one machine."""
        run = system.fresh("chain") / "run"
        told = run.parent / "told"
        jobs = self.submit(run, "--set", f'run.hook="echo $DIVERGEN_STAGE $DIVERGEN_STATE $DIVERGEN_EXIT >>{told}"')
        self.assertEqual(list(jobs), ["plan", "generate", "annotate", "filter", "pool", "train.baseline",
                                      "evaluate.baseline", "train.divergen", "evaluate.divergen", "report"])
        again = self.divergen("submit", system.HOME / "e2e.toml", "--set", f"run.dir={run}", *study.SMALL,
                              check=system.USAGE)
        self.assertIn("in the queue already", again.stderr)
        status = json.loads(self.divergen("status", run, "--json", check=0).stdout)
        self.assertTrue({job["label"] for job in status["queue"]} <= set(jobs))
        self.wait(jobs.values())
        for label, job in jobs.items():
            self.assert_job(job, "COMPLETED", 0, run / "logs" / f"{label}-*.out")
        self.assertEqual(system.results(run), system.results(system.REFERENCE))
        self.assertEqual(system.library_hash(run), system.library_hash(system.REFERENCE))
        hosts = {rank["host"] for rank in system.read_json(run / "stages/generate.json")["ranks"]}
        self.assertEqual(hosts, {"n1", "n2"})
        self.assertEqual(sorted(told.read_text().split("\n"))[1:], sorted(f"{label} done 0" for label in jobs))
        prom = (run / "metrics.prom").read_text()
        self.assertIn('divergen_stage_complete{stage="train.divergen"} 1', prom)
        self.assertIn(f'divergen_progress_total{{stage="generate"}} {self.items()}\n', prom)
        over = self.divergen("status", run, "--watch", check=0)
        self.assertIn("report", over.stdout)
        self.assertNotIn("waiting", over.stdout)

    def test_main_study(self):
        """configs/mini.toml as it is, nothing made smaller: all that `jobs/mini.sh` does, on two nodes, to the report."""
        run = system.fresh("main") / "run"
        world = run.parent / "world"
        made = system.Program(system.BIN / "divergen-miniworld", "--world", system.SOURCE / "data/mini", "--out",
                              world).end()
        self.assertEqual(made.code, 0, made)
        config = system.SOURCE / "configs/mini.toml"
        here = [word for key, value in tomllib.loads(config.read_text())["data"].items() if "runs/mini/world" in value
                for word in ("--set", f"data.{key}={value.replace('runs/mini/world', str(world))}")]
        jobs = self.submit(run, "--sbatch", "--time=40", *here, config=config)
        self.wait(jobs.values(), 3500)
        for label, job in jobs.items():
            self.assert_job(job, "COMPLETED", 0, run / "logs" / f"{label}-*.out")
        self.assertIn("AP", (run / "report.html").read_text())
        box = {name: numbers["bbox"] for name, numbers in system.read_json(run / "metrics.json")["evaluations"].items()}
        print(json.dumps({name: {key: numbers[key] for key in ("AP", "APr", "APc", "APf")} for name, numbers in box.items()}),
              system.library_hash(run))
        self.assertGreater(box["divergen"]["APr"], box["baseline"]["APr"] + 0.02)

    def test_array_of_seeds(self):
        """Each training with each seed, as one array job; a task of evaluate waits for the same task of train."""
        run = system.fresh("array") / "run"
        jobs = self.submit(run, "--array", "seeds=3,42", "--set", "train.iterations=4")
        self.assertEqual(list(jobs)[-3:], ["train", "evaluate", "report"])
        self.wait(jobs.values())
        self.assert_job(jobs["report"], "COMPLETED", 0, run / "logs/report-*.out")
        names = {f"{name}-seed{seed}" for name in ("baseline", "divergen") for seed in (3, 42)}
        self.assertEqual(set(system.read_json(run / "metrics.json")["evaluations"]), names)

    def test_heterogeneous(self):
        """plan to pool in one job of two groups."""
        run = system.fresh("het") / "run"
        jobs = self.submit(run, "--het", "--sbatch", "library:--ntasks-per-node=1", "--sbatch", "library:--nodes=1",
                           "--set", "train.iterations=4")
        self.wait([jobs["library"]])
        self.assert_job(jobs["library"], "COMPLETED", 0, run / "logs/library-*.out")
        self.assertEqual(system.library_hash(run), system.library_hash(system.REFERENCE))
        self.divergen("cancel", run)

    def test_chain_without_requeue(self):
        """--chain: the second job of a stage goes on where the first one was stopped, and only then the next stage."""
        run = system.fresh("links") / "run"
        run.mkdir()
        self.cluster.environment["DIVERGEN_FAULT"] = "shard.start:pause:2"  # one shard a rank, then a rest
        jobs = self.submit(run, "--chain", "2")
        links = [job["job"] for job in system.read_json(run / "slurm/jobs.json")["jobs"] if job["label"] == "generate"]
        self.wait_until(lambda: self.shards(run) >= 1, what="a shard")
        self.cluster.command("scancel", "--signal=USR2", "--batch", links[0])
        self.wait(links)
        self.assert_job(links[0], "FAILED", study.STOPPED, run / f"logs/generate-{links[0]}.out")
        self.assert_job(links[1], "COMPLETED", 0, run / f"logs/generate-{links[1]}.out")
        self.wait([jobs["annotate"]])
        self.assert_job(jobs["annotate"], "COMPLETED", 0)
        self.divergen("cancel", run, check=0)

    def test_cancel(self):
        """divergen cancel: the running job saves and leaves, nothing is requeued, and a later submit goes on."""
        run = system.fresh("cancel") / "run"
        self.cluster.environment["DIVERGEN_FAULT"] = "shard.start:pause:2"  # one shard a rank, then a rest
        jobs = self.submit(run)
        self.wait_until(lambda: self.shards(run) >= 1, what="a shard")
        self.divergen("cancel", run, check=0)
        self.wait(jobs.values())
        said = self.assert_job(jobs["generate"], "FAILED", study.STOPPED, run / "logs/generate-*.out")
        self.assertIn("stopped as asked, not requeued", said)
        self.assertLess(self.shards(run), self.all_shards())
        self.assertGreaterEqual(self.shards(run), 1)
        self.assertEqual(self.cluster.state(jobs["annotate"])[0], "CANCELLED")
        self.assertEqual(self.cluster.command("squeue", "-h"), "")

    def test_failure_ends_the_chain(self):
        """A stage that fails for good takes the jobs that wait for it out of the queue."""
        run = system.fresh("broken") / "run"
        jobs = self.submit(run)
        # Between submission and start the weights go away: the jobs before `generate` do not open them.
        text = (run / "slurm/config.toml").read_text()
        (run / "slurm/config.toml").write_text(text.replace("data/mini/models/sd", "data/mini/models/nowhere"))
        self.wait(jobs.values())
        said = self.assert_job(jobs["generate"], "FAILED", study.INPUT_OUTPUT, run / "logs/generate-*.out")
        self.assertIn("nowhere", said)
        self.assertEqual(study.starts(said), 1)
        self.assertEqual(self.cluster.state(jobs["annotate"])[0], "CANCELLED")
        self.assertEqual(self.cluster.state(jobs["report"])[0], "CANCELLED")


if __name__ == "__main__":
    study.main()
