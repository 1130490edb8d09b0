"""The batch scripts without a cluster: what `submit --dry-run` writes for two sites, shellcheck, the container
definitions, and lib.sh's decisions with a srun, a squeue and a scontrol that are played.

DIVERGEN_UPDATE_GOLDEN=1 writes the golden files anew.
"""

import fcntl
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
                (["--sbatch", "trian:--nodes=2"], ["trian", "no job"]),
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
    "srun": 'echo "$*" >>"$PLAY/srun"; . "$PLAY/plan"',
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


if __name__ == "__main__":
    unittest.main(verbosity=2)
