"""The batch scripts without a cluster: what `submit --dry-run` writes for two sites, shellcheck, the container
definitions, and lib.sh's decisions with a srun, a squeue and a scontrol that are played.

DIVERGEN_UPDATE_GOLDEN=1 writes the golden files anew.
"""

import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

SOURCE = pathlib.Path(os.environ["DIVERGEN_SOURCE_DIR"])
BIN = pathlib.Path(os.environ["DIVERGEN_BIN_DIR"])
GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"


def dry_run(*options):
    done = subprocess.run([str(BIN / "divergen"), "submit", "configs/mini.toml", "--dry-run", *options], cwd=SOURCE,
                          capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.replace(str(BIN), "@BIN@").replace(str(SOURCE), "@SOURCE@"), done.stderr


def scripts_of(text):
    """Name -> script of a dry run."""
    parts = re.split(r"^==> (.*) <==\n", text, flags=re.M)
    return {name: body for name, body in zip(parts[1::2], parts[2::2]) if name.endswith(".sbatch")}


class DryRun(unittest.TestCase):
    maxDiff = None

    def check(self, name, *options):
        code, out, err = dry_run(*options)
        self.assertEqual(code, 0, err)
        file = GOLDEN / f"{name}.txt"
        if os.environ.get("DIVERGEN_UPDATE_GOLDEN"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(out)
        self.assertEqual(out, file.read_text())
        return scripts_of(out)

    def test_scaling_study(self):
        """One job a point, with the options of its stage and no more nodes than its ranks need."""
        done = subprocess.run(
            [str(BIN / "divergen"), "scaling", "configs/mini.toml", "--stage", "generate", "--ranks", "1,4,6", "--mode", "weak",
             "--items", "64", "--repeat", "3", "--out", "runs/study", "--submit", "--site", "a100-infiniband", "--sbatch",
             "generate:--time=1:00:00", "--dry-run"], cwd=SOURCE, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        out = done.stdout.replace(str(BIN), "@BIN@").replace(str(SOURCE), "@SOURCE@")
        file = GOLDEN / "scaling.txt"
        if os.environ.get("DIVERGEN_UPDATE_GOLDEN"):
            file.write_text(out)
        self.assertEqual(out, file.read_text())
        scripts = scripts_of(out)
        self.assertEqual(len(scripts), 3)
        self.assertIn("#SBATCH --nodes=2\n", scripts["scaling.p6.sbatch"])
        self.assertIn("#SBATCH --ntasks=6\n", scripts["scaling.p6.sbatch"])
        self.assertIn("#SBATCH --nodes=1\n", scripts["scaling.p1.sbatch"])
        for name, script in scripts.items():
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)
            self.assertIn(f"set -- {re.search(r'[0-9]+', name)[0]}\n", script)

    def test_site_with_modules(self):
        scripts = self.check("a100-infiniband", "--site", "a100-infiniband", "--sbatch", "train:--nodes=2",
                             "--set", "run.mail=me@example.org", "--set", "run.hook=\"notify '$DIVERGEN_STAGE'\"")
        self.assertEqual(len(scripts), 10)
        for name in ("plan", "pool", "report"):
            self.assertNotIn("#SBATCH --gres", scripts[f"{name}.sbatch"])
        self.assertIn("--gres=gpu:4", scripts["generate.sbatch"])

    def test_site_with_containers(self):
        scripts = self.check("gh200-slingshot", "--site", "gh200-slingshot", "--sbatch", "train:--nodes=2", "--array",
                             "seeds=1-2", "--chain", "2", "--het")
        self.assertEqual(list(scripts), ["library.sbatch", "train.sbatch", "evaluate.sbatch", "report.sbatch"])

    def test_at_most_one_sbatch_a_stage(self):
        _, out, _ = dry_run("--sbatch", "train:--ntasks-per-node=2")
        submitted = [line for line in out.splitlines() if line.startswith("sbatch ")]
        self.assertEqual(len(submitted), 6 + 2 * 2)  # train and evaluate once for each of two trainings
        self.assertEqual(len(submitted), len(set(submitted)))

    def test_baseline_waits_for_no_library(self):
        _, out, _ = dry_run("--sbatch", "train:--ntasks-per-node=2")
        line = next(line for line in out.splitlines() if line.endswith("<train.baseline>"))
        self.assertNotIn("--dependency", line)
        line = next(line for line in out.splitlines() if line.endswith("<train.divergen>"))
        self.assertIn("--dependency=afterok:<pool>", line)

    def test_bad_requests(self):
        for options, words in (
                (["--site", "nowhere"], ["no such site", "cpu", "gpu", "a100-infiniband"]),
                (["--sbatch", "nodes=2"], ["--sbatch", "does not begin with --"]),
                (["--sbatch", "trian:--nodes=2"], ["trian", "no stage"]),
                (["--sbatch", "train:--ntasks-per-node=3"], ["batch", "3 ranks"]),
                (["--array", "seeds=1,x"], ["seeds", "x"]),
                (["--array", "both"], ["ablations", "seeds"])):
            code, _, err = dry_run(*options)
            self.assertEqual(code, 64, err)
            for word in words:
                self.assertIn(word, err)

    def test_a_short_job_is_warned_in_time(self):
        _, out, _ = dry_run("--sbatch", "--time=4", "--sbatch", "train:--ntasks-per-node=2")
        self.assertIn("--signal=B:USR2@60", scripts_of(out)["generate.sbatch"])
        _, out, _ = dry_run("--sbatch", "--time=4", "--sbatch", "--signal=B:USR2@100", "--sbatch", "train:--ntasks-per-node=2")
        self.assertIn("--signal=B:USR2@100", scripts_of(out)["generate.sbatch"])


class Shell(unittest.TestCase):
    def test_shellcheck(self):
        if shutil.which("shellcheck") is None:
            self.skipTest("shellcheck is not installed")
        files = sorted([*(SOURCE / "slurm").glob("*.sh"), *(SOURCE / "slurm").glob("*.sbatch"),
                        *(SOURCE / "slurm/container").glob("*.sh")])
        self.assertGreaterEqual(len(files), 11)
        subprocess.run(["shellcheck", "-x", *map(str, files)], cwd=SOURCE, check=True)
        for site in (SOURCE / "slurm/sites").glob("*.env"):
            subprocess.run(["shellcheck", "-s", "bash", "-e", "SC2034", str(site)], check=True)
        for site in ("cpu", "a100-infiniband"):
            with tempfile.TemporaryDirectory() as folder:
                _, out, _ = dry_run("--site", site, "--sbatch", "train:--nodes=1", "--sbatch", "train:--ntasks-per-node=4",
                                    "--array", "ablations")
                for name, text in scripts_of(out).items():
                    file = pathlib.Path(folder) / name
                    file.write_text(text)
                    subprocess.run(["shellcheck", "-e", "SC1091,SC2034", str(file)], check=True)

    def test_sites_are_read(self):
        for site in sorted((SOURCE / "slurm/sites").glob("*.env")):
            code, out, err = dry_run("--site", site.stem, "--sbatch", "train:--nodes=1", "--sbatch", "train:--ntasks-per-node=4")
            self.assertEqual(code, 0, err)
            self.assertIn(f"# ---- sites/{site.name}", out)

    def test_apptainer_definition(self):
        text = (SOURCE / "slurm/container/divergen.def").read_text()
        self.assertRegex(text, r"\ABootstrap: docker\nFrom: debian:12\n")
        sections = re.findall(r"^%(\w+)", text, flags=re.M)
        self.assertEqual(sections, ["files", "post", "environment", "test", "runscript"])
        for section in ("post", "environment", "test", "runscript"):
            body = re.search(rf"^%{section}\n(.*?)(?=^%|\Z)", text, flags=re.M | re.S).group(1)
            subprocess.run(["sh", "-n"], input=body, text=True, check=True)


# What is played: srun does what the file `plan` says for this start, squeue and scontrol write down that they were asked.
PLAYED = {
    "divergen": 'if [ "$1" = status ]; then echo "units=$(cat "$PLAY/units") stop=$(cat "$PLAY/stop")"; fi',
    "divergen-worker": "exit 0",
    "srun": 'echo "$*" >>"$PLAY/srun"; mkdir -p "$PLAY/run/progress"; touch "$PLAY/run/progress/generate.begun"; '
            '. "$PLAY/plan"',
    "squeue": 'cat "$PLAY/state"',
    "scontrol": 'echo "$*" >>"$PLAY/scontrol"; kill -TERM "$PPID"',
}


class Decisions(unittest.TestCase):
    """What lib.sh makes of the ends of a stage."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        for name, body in PLAYED.items():
            file = self.folder / name
            file.write_text(f"#!/bin/bash\n{body}\n")
            file.chmod(0o755)
        self.put(units="0", stop="", state="RUNNING", plan="exit 0")

    def put(self, **files):
        for name, text in files.items():
            (self.folder / name).write_text(text + "\n")

    def start(self, restarts=0, **environment):
        return subprocess.Popen(
            ["bash", "-c", f'. "{SOURCE}/slurm/lib.sh"; divergen_main generate study.toml'], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env={
                "PATH": f"{self.folder}:{os.environ['PATH']}", "PLAY": str(self.folder), "DIVERGEN_BIN": str(self.folder),
                "DIVERGEN_RUN": str(self.folder / "run"), "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts),
                **environment})

    def finish(self, process):
        out, _ = process.communicate(timeout=60)
        return process.returncode, out

    def run_once(self, *arguments, **environment):
        return self.finish(self.start(*arguments, **environment))

    def requeues(self):
        file = self.folder / "scontrol"
        return file.read_text().count("requeue 7") if file.exists() else 0

    def test_done(self):
        code, out = self.run_once(DIVERGEN_HOOK='echo "$DIVERGEN_STAGE $DIVERGEN_STATE $DIVERGEN_EXIT" >"$PLAY/told"')
        self.assertEqual(code, 0, out)
        self.assertEqual((self.folder / "told").read_text(), "generate done 0\n")
        asked = (self.folder / "srun").read_text()
        for part in ("--mpi=pmix", "--kill-on-bad-exit=1", "--cpu-bind=cores", "divergen-worker generate study.toml"):
            self.assertIn(part, asked)
        self.assertNotIn("gpu", asked)

    def test_gpus_are_not_bound_one_by_one(self):
        self.run_once(SLURM_GPUS_ON_NODE="4", SLURM_CPUS_PER_TASK="8", DIVERGEN_SRUN="--network=single_node_vni")
        asked = (self.folder / "srun").read_text()
        for part in ("--gpu-bind=none", "--cpus-per-task=8", "--network=single_node_vni"):
            self.assertIn(part, asked)

    def test_stopped_with_progress_is_requeued(self):
        self.put(plan='echo 5 >"$PLAY/units"; echo "the time limit" >"$PLAY/stop"; exit 75')
        code, out = self.run_once()
        self.assertEqual((code, self.requeues()), (75, 1), out)
        self.assertIn("because of the time limit; committed: 0 before, 5 now", out)

    def test_two_starts_without_progress_are_a_crash_loop(self):
        self.put(plan="exit 75", stop="the time limit")
        self.assertEqual(self.run_once()[0], 75)
        code, out = self.run_once(1)
        self.assertEqual((code, self.requeues()), (70, 1), out)
        self.assertIn("crash loop: 2 starts in a row committed nothing", out)
        self.assertIn("raise --time", out)

    def test_progress_between_them_is_none(self):
        self.put(plan="exit 137")
        self.run_once()
        self.put(plan='echo 1 >"$PLAY/units"; exit 137')
        self.run_once(1)
        self.put(plan="exit 137")
        code, out = self.run_once(2)
        self.assertEqual((code, self.requeues()), (75, 3), out)
        code, out = self.run_once(3)
        self.assertEqual((code, self.requeues()), (70, 3), out)
        self.assertIn("killed by signal 9", out)

    def test_ranks_that_do_not_begin(self):
        self.put(plan='rm "$PLAY/run/progress/generate.begun"; exit 137')
        self.run_once()
        code, out = self.run_once(1)
        self.assertEqual((code, self.requeues()), (70, 1), out)
        self.assertIn("the ranks did not begin; srun's lines above say why", out)
        self.assertIn("--exclude=NODE", out)

    def test_preempted_twice_at_once_is_no_loop(self):
        self.put(plan="exit 75", stop="SIGTERM")
        for restarts in range(4):
            self.run_once(restarts)
        self.assertEqual(self.requeues(), 4)

    def test_errors_are_not_tried_again(self):
        for code in (64, 65, 74):
            self.put(plan=f"exit {code}")
            found, out = self.run_once(DIVERGEN_HOOK='echo "$DIVERGEN_STATE" >"$PLAY/told"')
            self.assertEqual((found, self.requeues()), (code, 0), out)
            self.assertEqual((self.folder / "told").read_text(), "failed\n")

    def test_what_slurm_ends_itself_is_left_to_it(self):
        self.put(plan='echo 5 >"$PLAY/units"; exit 75', state="COMPLETING")
        code, out = self.run_once()
        self.assertEqual((code, self.requeues()), (75, 0), out)

    def test_cancelled_or_stopped_runs_are_not_requeued(self):
        for name in ("slurm/CANCELLED", "STOP"):
            (self.folder / "run/slurm").mkdir(parents=True, exist_ok=True)
            (self.folder / "run" / name).touch()
            self.put(plan='echo 5 >"$PLAY/units"; exit 75')
            code, out = self.run_once()
            self.assertEqual((code, self.requeues()), (75, 0), out)
            (self.folder / "run" / name).unlink()

    def test_chain_goes_on_after_75_and_heeds_a_failure(self):
        chain = {"DIVERGEN_REQUEUE": "no", "DIVERGEN_SUBMISSION": "s"}
        self.put(plan='echo 5 >"$PLAY/units"; exit 75')
        self.assertEqual((self.run_once(**chain)[0], self.requeues()), (75, 0))
        self.put(plan="exit 65")
        self.assertEqual(self.run_once(**chain)[0], 65)
        asked = (self.folder / "srun").read_text()
        code, out = self.run_once(**chain)
        self.assertEqual(code, 65, out)
        self.assertIn("an earlier job of this chain has failed for good", out)
        self.assertEqual((self.folder / "srun").read_text(), asked, "it was tried again")

    def test_signals_are_passed_on_as_usr2(self):
        for number in (signal.SIGUSR2, signal.SIGTERM):
            self.put(units="0", plan='trap \'echo 5 >"$PLAY/units"; exit 75\' USR2; touch "$PLAY/up"; for i in {1..200}; do sleep 0.1; done')
            process = self.start()
            end = time.monotonic() + 20
            while not (self.folder / "up").exists() and time.monotonic() < end:
                time.sleep(0.02)
            (self.folder / "up").unlink()
            process.send_signal(number)
            code, out = self.finish(process)
            self.assertEqual(code, 75, out)
            self.assertIn("committed: 0 before, 5 now", out)
        self.assertEqual(self.requeues(), 2)

    def test_ranks_that_are_killed_while_they_stop_count_as_stopped(self):
        self.put(plan='trap \'echo 5 >"$PLAY/units"; exit 140\' USR2; touch "$PLAY/up"; for i in {1..200}; do sleep 0.1; done')
        process = self.start()
        while not (self.folder / "up").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR2)
        code, out = self.finish(process)
        self.assertEqual((code, self.requeues()), (75, 1), out)

    def test_second_job_of_a_run_is_kept_out(self):
        (self.folder / "run/slurm").mkdir(parents=True)
        lock = open(self.folder / "run/.lock", "w")
        self.addCleanup(lock.close)

        fcntl.flock(lock, fcntl.LOCK_EX)
        self.put(flock="")
        (self.folder / "flock").write_text('#!/bin/bash\nexec /usr/bin/flock --nonblock "${@:3}"\n')
        (self.folder / "flock").chmod(0o755)
        code, out = self.run_once()
        self.assertEqual(code, 74, out)
        self.assertIn("another divergen is at work", out)


class Watching(unittest.TestCase):
    """status and cancel with a squeue and a scancel that are played."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.run_dir = self.folder / "run"
        for part in ("slurm", "progress", "generate"):
            (self.run_dir / part).mkdir(parents=True)
        config = subprocess.run([str(BIN / "divergen"), "run", "configs/mini.toml", "--print-config", "--set",
                                 f"run.dir={self.run_dir}"], cwd=SOURCE, capture_output=True, text=True, check=True)
        (self.run_dir / "config.toml").write_text(config.stdout)
        (self.run_dir / "generate/shard-000000.h5").touch()
        (self.run_dir / "progress/generate.json").write_text(json.dumps({
            "stage": "generate", "part": "generate", "done": 320, "total": 952, "rejected": 0, "rate": 2.0,
            "slowest_rank": 3, "slowest_rate": 0.2, "seconds": 160.0, "walltime_left": 1000.0, "finished": False,
            "time": time.time(), "ranks": 8, "host": "n1", "job": "12", "restarts": 1}))
        jobs = [{"label": label, "job": str(11 + i), "script": "x", "link": 1}
                for i, label in enumerate(["plan", "generate", "annotate"])]
        (self.run_dir / "slurm/jobs.json").write_text(json.dumps(
            {"submission": "s", "config": "study.toml", "site": "", "jobs": jobs}))
        for name, body in (("squeue", 'echo "$*" >>"$PLAY/asked"; printf "%s\\n" "12|RUNNING|None|5:00|55:00|n[1-2]" '
                                      '"13|PENDING|Dependency|0:00|1:00:00|"'),
                           ("scancel", 'echo "$*" >>"$PLAY/cancelled"')):
            (self.folder / name).write_text(f"#!/bin/bash\n{body}\n")
            (self.folder / name).chmod(0o755)

    def tool(self, *command):
        done = subprocess.run([str(BIN / "divergen"), *map(str, command)], capture_output=True, text=True, timeout=60,
                              env=dict(os.environ, PATH=f"{self.folder}:{os.environ['PATH']}", PLAY=str(self.folder)))
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def asked(self):
        file = self.folder / "asked"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def test_status_asks_squeue_once(self):
        text = self.tool("status", self.run_dir)
        self.assertEqual(self.asked(), 1)
        self.assertIn("-j 11,12,13", (self.folder / "asked").read_text())
        line = next(line for line in text.splitlines() if line.startswith("generate"))
        for part in ("open", "320 of 952", "2.00/s", "fits into the job", "8 ranks", "restart 1", "job 12 RUNNING"):
            self.assertIn(part, line)
        self.assertIn("job 13 PENDING (Dependency)", text)
        self.assertIn('divergen_progress_done{stage="generate"} 320\n', (self.run_dir / "metrics.prom").read_text())

    def test_status_without_the_queue(self):
        facts = json.loads(self.tool("status", self.run_dir, "--json", "--no-queue"))
        self.assertEqual(self.asked(), 0)
        generate = next(stage for stage in facts["open"] if stage["stage"] == "generate")
        self.assertEqual((generate["committed"], generate["progress"]["done"]), (1, 320))

    def test_watch_asks_seldom_and_ends_with_the_reader(self):
        process = subprocess.Popen(
            [str(BIN / "divergen"), "status", str(self.run_dir), "--watch", "--json", "--interval", "0.2"],
            stdout=subprocess.PIPE, text=True,
            env=dict(os.environ, PATH=f"{self.folder}:{os.environ['PATH']}", PLAY=str(self.folder)))
        lines = [json.loads(process.stdout.readline()) for _ in range(5)]
        process.terminate()
        process.wait(20)
        process.stdout.close()
        self.assertEqual({line["queue"][0]["state"] for line in lines}, {"RUNNING"})
        self.assertEqual(self.asked(), 1)

    def test_cancel_saves_what_runs(self):
        self.tool("cancel", self.run_dir)
        self.assertEqual((self.folder / "cancelled").read_text().splitlines(), ["13", "--signal=USR2 --batch 12"])
        self.assertTrue((self.run_dir / "slurm/CANCELLED").exists())

    def test_doctor(self):
        done = subprocess.run([str(BIN / "divergen"), "doctor", str(self.folder), "--json"], capture_output=True, text=True)
        facts = json.loads(done.stdout)
        for key in ("system", "memory", "mpirun", "slurm", "worker", "gpu", "nccl", "file_system", "free_space",
                    "free_inodes", "locks", "commit", "file_clock", "clock", "open_files", "locked_memory", "advice"):
            self.assertIn(key, facts)
        self.assertEqual(facts["hdf5_write_verify_rename"], "ok")
        self.assertEqual(list(self.folder.glob(".divergen-doctor*")), [])
        done = subprocess.run([str(BIN / "divergen"), "doctor", "/proc", "--json"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 74)
        self.assertIn("cannot be written here", json.loads(done.stdout)["advice"]["commit"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
