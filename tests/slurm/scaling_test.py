"""A scaling study as Slurm jobs: one a point, requeued in the middle, gone on with where it was."""

import study
import system


class Scaling(study.SlurmTest):
    def test_scaling(self):
        out = system.fresh("scaling") / "study"
        options = ["scaling", system.HOME / "e2e.toml", "--out", out, "--stage", "generate", "--mode", "weak", "--ranks",
                   "1,2", "--repeat", "2", "--items", "8", "--set", "plan.shard_items=2", "--set", "generators.sd.steps=1",
                   "--submit", "--sbatch", "--ntasks-per-node=1", "--sbatch", "--cpus-per-task=1", "--sbatch", "--time=10",
                   "--sbatch", "--partition=low"]
        self.divergen(*options, check=0)
        jobs = {job["label"]: job["job"] for job in system.read_json(out / "slurm/jobs.json")["jobs"]}
        self.assertEqual(list(jobs), ["scaling.p1", "scaling.p2"])
        self.divergen(*options, check=system.USAGE)  # in the queue already
        first = out / "points/p000002/r0/run.json"
        self.wait_until(first.exists, what="the warm-up on two ranks")
        before = first.read_bytes()
        self.cluster.command("scontrol", "requeue", jobs["scaling.p2"])
        self.wait(jobs.values())
        for label, job in jobs.items():
            self.assert_job(job, "COMPLETED", 0, out / "logs" / f"{label}-*.out")
        self.assertEqual(first.read_bytes(), before, "a run that was done is made again")
        made = system.read_json(next(out.glob("scaling-*.json")))
        self.assertEqual([(point["ranks"], point["nodes"], point["items"], point["runs"]) for point in made["points"]],
                         [(1, 1, 8, 2), (2, 2, 16, 2)])
        self.assertIn("srun", made["study"]["facts"]["Launcher"])
        self.assertIn("scaling.p2.sbatch", next(out.glob("scaling-*.html")).read_text())
        again = self.divergen(*options, check=0)  # nothing is left to be done
        self.assertNotIn("job ", again.stderr)


if __name__ == "__main__":
    study.main()
