"""Runs the programs as a user does: what all end-to-end tests share.

Places come from the environment, set by CMakeLists.txt: DIVERGEN_SOURCE_DIR, DIVERGEN_BIN_DIR (the programs), and
DIVERGEN_E2E_DIR, a folder that holds the small world, the reference run, and one folder for each test at work.
"""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time

SOURCE = pathlib.Path(os.environ["DIVERGEN_SOURCE_DIR"])
BIN = pathlib.Path(os.environ["DIVERGEN_BIN_DIR"])
HOME = pathlib.Path(os.environ["DIVERGEN_E2E_DIR"])
WORLD = HOME / "world"
REFERENCE = HOME / "reference"  # an uninterrupted run on RANKS ranks
RANKS = 2

USAGE, BAD_DATA, INPUT_OUTPUT, STOPPED = 64, 65, 74, 75

# The study of configs/mini.toml, every size as small as goes: 24 rare and extra categories, two generators with one
# prompt each, in six shards of the plan and of the library. The filter keeps everything, since three steps of diffusion
# are no picture.
CONFIG = f"""base = "{SOURCE}/configs/mini.toml"
[data]
train_json = "{WORLD}/train.json"
train_images = "{WORLD}/images"
val_json = "{WORLD}/val.json"
val_images = "{WORLD}/images"
categories = "{WORLD}/categories.json"
area_stats = "{WORLD}/area_mean_std2.json"
[plan]
shard_items = 8
frequencies = ["r"]
[plan.quota]
rare = 0
[prompts.descriptive]
limit = 1
[generators.sd]
steps = 3
prompts = ["descriptive"]
[generators.deepfloyd]
steps = 2
stage2_steps = 1
prompts = ["manual"]
[generators.deepfloyd.quota]
rare = 0
extra = 0
[filter]
similarity = -1
min_clip_score = -100
min_area = 0
max_area = 1
[pool]
shard_rows = 8
[augment]
train_size = 64
[train]
iterations = 12
warmup = 2
batch = 2
checkpoint_every = 4
[evaluate]
short_side = 64
long_side = 96
batch = 2
"""


class Outcome:
    """How a program ended: exit code, both streams as text, seconds."""

    def __init__(self, code, stdout, stderr, seconds):
        self.code, self.stdout, self.stderr, self.seconds = code, stdout, stderr, seconds

    def __str__(self):
        return f"exit code {self.code} after {self.seconds:.1f} s\n{self.stdout}{self.stderr}"


def _environment(temporary):
    """A killed launch cannot sweep its shared memory: here it lies where the test sweeps it."""
    environment = dict(os.environ, NO_COLOR="1", TMPDIR=temporary)
    for part in ("btl_vader", "osc_rdma", "osc_sm"):
        environment[f"OMPI_MCA_{part}_backing_directory"] = temporary
    return environment


class Program:
    """A program at work. Its stderr is collected while it runs, so that a test can wait for what it says."""

    def __init__(self, *command):
        self._temporary = tempfile.mkdtemp(prefix="dg-")  # short: it holds Unix sockets
        self._start = time.monotonic()
        self.process = subprocess.Popen(
            [str(part) for part in command], cwd=SOURCE, env=_environment(self._temporary), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
        self._texts = {"stdout": "", "stderr": ""}
        self._readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in self._texts]
        for reader in self._readers:
            reader.start()

    def _read(self, name):
        for line in getattr(self.process, name):
            self._texts[name] += line

    @property
    def stderr(self):
        return self._texts["stderr"]

    def wait_until(self, condition, timeout=120):
        """Polls closely; False when the program ended, or the time was up, before the condition held."""
        end = time.monotonic() + timeout
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                return False
            time.sleep(0.002)
        return True

    def kill(self):
        """kill -9 of the driver, mpirun and all ranks at once; returns when all of them are gone."""
        pids = [self.process.pid, *_descendants(self.process.pid)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.end()
        while any(_is_alive(pid) for pid in pids):
            time.sleep(0.01)
        return len(pids)

    def end(self, timeout=300):
        """Waits for the end. A program that does not end is killed, and the test fails."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        for reader in self._readers:
            reader.join(30)
        self.process.stdout.close()
        self.process.stderr.close()
        shutil.rmtree(self._temporary, ignore_errors=True)
        return Outcome(code, self._texts["stdout"], self._texts["stderr"], time.monotonic() - self._start)


def _stat(pid):
    """State and parent of a process, or nothing when it is gone (proc(5): the name may hold blanks)."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


def _is_alive(pid):
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def _descendants(root):
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(entry)):
            children.setdefault(stat[1], []).append(int(entry))
    found, todo = [], [root]
    while todo:
        todo += children.get(todo.pop(), [])
        found += [pid for pid in todo if pid not in found]
    return found


def start(command, run, *options, ranks=RANKS, config=None):
    """Starts a command that takes a configuration, by default the shared one, on a run directory."""
    return Program(BIN / "divergen", command, config or HOME / "e2e.toml", "--ranks", ranks,
                   "--set", f"run.dir={run}", *options)


def divergen(command, run, *options, **more):
    """The same, to its end."""
    return start(command, run, *options, **more).end()


def tool(*command):
    """A command of the driver that takes no configuration, to its end."""
    return Program(BIN / "divergen", *command).end()


def make_world():
    """From nothing: the small world, and the configuration on it."""
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    (HOME / "e2e.toml").write_text(CONFIG)
    return Program(BIN / "divergen-miniworld", "--world", SOURCE / "data/mini", "--out", WORLD,
                   "--train", 48, "--val", 24, "--size", 96).end()


def fresh(name):
    """An empty folder of a test."""
    folder = HOME / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def copy_of_reference(folder):
    """A run directory where everything is done already."""
    run = folder / "run"
    shutil.copytree(REFERENCE, run)
    return run


def forget(run, *stages):
    """Takes away all that these stages ("train.divergen") made."""
    for stage in stages:
        shutil.rmtree(run / stage.replace(".", "/"))
        (run / "stages" / f"{stage}.json").unlink()


def read_json(path):
    return json.loads(pathlib.Path(path).read_text())


def library_hash(run):
    """What `divergen inspect` says of the library."""
    outcome = tool("inspect", run, "--json")
    assert outcome.code == 0, outcome
    return json.loads(outcome.stdout)["hash"]


def results(run):
    """Everything a finished run has to say that must not depend on how it came about."""
    metrics = read_json(run / "metrics.json")
    return {"library": metrics["library"], "evaluations": metrics["evaluations"]}


def contents(run, *folders):
    """Hash and time of writing of every file below these folders."""
    return {str(file.relative_to(run)): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
            for folder in folders for file in sorted((run / folder).rglob("*")) if file.is_file()}
