"""A real Slurm on one machine: munged, slurmctld and two slurmd, with ports and folders of their own.

Each slurmd lives in a mount namespace with its own /tmp and /dev/shm, as a machine of its own would: PMIx keeps its
sockets there and Open MPI the memory that ranks of a node share, under names that are the same on both. Needs root. Everything ends with stop(), which kills by what was started here and
by nothing else.

    with Cluster() as cluster:
        cluster.command("sinfo")
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue", "unshare",
            "nsenter", "setpriv")
NODES = ("n1", "n2")

# cred_expire: how long a requeued job waits before it starts anew (two minutes by default).
# OverSubscribe: ranks outnumber the processors of a test machine by far.
# jobcomp/filetxt: the final state of every job, which squeue forgets.
CONFIG = """ClusterName=divergen
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=6
CredType=cred/munge
MpiDefault=pmix
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=1,sched_min_interval=100000,kill_invalid_depend
ReturnToService=2
SlurmdTimeout=12
InactiveLimit=0
KillWait=30
MinJobAge=3600
JobRequeue=1
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/finished
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1_port} CPUs=64 RealMemory=8000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2_port} CPUs=64 RealMemory=8000 State=UNKNOWN
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=INFINITE DefaultTime=10 State=UP PriorityTier=1 GraceTime=25
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE DefaultTime=10 State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing():
    """Why there can be no cluster here, or nothing."""
    if os.geteuid() != 0:
        return "the tests of Slurm start its daemons and need root"
    absent = [name for name in PROGRAMS if _program(name) is None]
    if absent:
        return f"Slurm is not installed (no {', '.join(absent)}): tools/setup.sh --with-slurm"
    if subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode != 0:
        return "this machine gives no mount namespaces, which each node needs"
    return None


def _program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _free_ports(count):
    holders = [socket.socket() for _ in range(count)]
    for holder in holders:
        holder.bind(("127.0.0.1", 0))
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


class Cluster:
    def __init__(self):
        # Not below /tmp, which every node has for itself; short, because Unix sockets lie in it.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dg-slurm-", dir="/var/tmp"))
        self.processes = {}
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self.environment.update(
            SLURM_CONF=str(self.folder / "slurm.conf"), NO_COLOR="1", OMPI_ALLOW_RUN_AS_ROOT="1",
            OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
            # The nodes are one machine: there is always a loopback, and not always another network.
            OMPI_MCA_btl_tcp_if_include="lo",
            PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self.folder.chmod(0o755)
        ports = _free_ports(3)
        (self.folder / "slurm.conf").write_text(CONFIG.format(
            host=socket.gethostname().split(".")[0], folder=self.folder, controller_port=ports[0], n1_port=ports[1],
            n2_port=ports[2]))
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        (self.folder / "state").mkdir(mode=0o755)
        key = self.folder / "munge.key"
        subprocess.run([_program("mungekey"), "--create", "--keyfile", key], check=True, env=self.environment)
        self._start("munged", "--foreground", "--key-file", key, "--socket", self.folder / "munge.socket",
                    "--pid-file", self.folder / "munged.pid", "--seed-file", self.folder / "munge.seed")
        self._wait("munged", lambda: (self.folder / "munge.socket").exists(), 20)
        self._start("slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes()
        return self

    def _start(self, name, *arguments, key=None):
        log = open(self.folder / f"{key or name}.console", "ab")
        # Daemons do not outlive a test that is killed.
        self.processes[key or name] = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", _program(name), *map(str, arguments)], env=self.environment, stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, cwd="/", start_new_session=True)
        log.close()

    def start_node(self, node):
        """Also after kill_node: a machine that boots has nothing left in its /tmp."""
        for place in ("tmp", "spool"):
            _refuse_mounts(self.folder / f"{place}-{node}")
            shutil.rmtree(self.folder / f"{place}-{node}", ignore_errors=True)
            (self.folder / f"{place}-{node}").mkdir(mode=0o755)
        (self.folder / f"tmp-{node}").chmod(0o1777)
        inside = (f'{self._keep_checkout(node)}mount --rbind "{self.folder}/tmp-{node}" /tmp && '
                  f'mount -t tmpfs -o size=2g tmpfs /dev/shm && exec "{_program("slurmd")}" -D -N {node}')
        self._start("unshare", "--mount", "--propagation", "private", "sh", "-c", inside, key=f"slurmd-{node}")

    def _keep_checkout(self, node):
        """A checkout below /tmp stays where it is also on a node, which has a /tmp of its own."""
        checkout = pathlib.Path(os.environ.get("DIVERGEN_SOURCE_DIR", "/")).resolve()
        if not checkout.is_relative_to("/tmp") or checkout == pathlib.Path("/tmp"):
            return ""
        inside = self.folder / f"tmp-{node}" / checkout.relative_to("/tmp")
        inside.mkdir(parents=True)
        return f'mount --bind "{checkout}" "{inside}" && '

    def wait_for_nodes(self, seconds=60):
        self._wait("the nodes", lambda: self.command("sinfo", "-h", "-o", "%T %D").strip() == "idle 2", seconds)

    def _wait(self, what, condition, seconds):
        end = time.monotonic() + seconds
        while not condition():
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            if ended or time.monotonic() > end:
                consoles = "\n".join((self.folder / f"{name}.console").read_text() for name in self.processes)
                raise RuntimeError(f"{what} did not come up; ended: {ended or 'none'}\n{consoles}\n{self.logs()}")
            time.sleep(0.1)

    def logs(self, lines=40):
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
                         for log in sorted(self.folder.glob("*.log")))

    def command(self, *arguments, check=False, timeout=60, **more):
        """Standard output of a command that sees this cluster."""
        done = subprocess.run([str(a) for a in arguments], env=self.environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=timeout, **more)
        if check and done.returncode != 0:
            raise RuntimeError(f"{arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def in_node(self, node, *arguments):
        """Runs a command in the node's mount namespace, where its own disks are."""
        subprocess.run(["nsenter", "--mount", f"--target={self.processes[f'slurmd-{node}'].pid}", *map(str, arguments)],
                       check=True, env=self.environment)

    def state(self, job):
        """(state, reason, restarts, exit code) of a job, from the controller's memory (MinJobAge keeps it there)."""
        fields = dict(part.split("=", 1) for part in self.command("scontrol", "-o", "show", "job", job).split()
                      if "=" in part)
        return (fields.get("JobState", "GONE"), fields.get("Reason", ""), int(fields.get("Restarts", 0)),
                fields.get("ExitCode", ""))

    def wait_for_jobs(self, jobs, seconds):
        """True when none of them is in the queue any more."""
        end = time.monotonic() + seconds
        over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "GONE"}
        while any(self.state(job)[0] not in over for job in jobs):
            if time.monotonic() > end:
                return False
            time.sleep(0.5)
        return True

    def finished(self):
        """Every end of a job that the controller recorded: name -> states, a requeued job several times."""
        ends = {}
        file = self.folder / "finished"
        for line in file.read_text().splitlines() if file.exists() else ():
            fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
            ends.setdefault(fields.get("Name", "?"), []).append(fields.get("JobState", "?"))
        return ends

    def kill_node(self, node):
        """The node is gone at once, with all that ran on it, as when its power fails."""
        for pid in _tree(self.processes[f"slurmd-{node}"].pid) + self._steps_of(node):
            _signal(pid, signal.SIGKILL)
        self.processes.pop(f"slurmd-{node}").wait(20)

    def _steps_of(self, node):
        """slurmstepd cuts itself off from slurmd: what belongs to a node is told by its mount namespace."""
        try:
            space = os.readlink(f"/proc/{self.processes[f'slurmd-{node}'].pid}/ns/mnt")
        except OSError:
            return []
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/mnt") == space:
                    found.append(int(entry))
            except OSError:
                pass
        return found

    def stop(self):
        if "slurmctld" in self.processes and self.processes["slurmctld"].poll() is None:
            self.command("scancel", "--full", "--signal=KILL", "--user=root", timeout=20)
        for node in NODES:
            if f"slurmd-{node}" in self.processes:
                self.kill_node(node)
        for name in ("slurmctld", "munged"):
            process = self.processes.pop(name, None)
            if process is None:
                continue
            _signal(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                _signal(process.pid, signal.SIGKILL)
                process.wait(10)
        if "DIVERGEN_KEEP_CLUSTER" not in os.environ:
            _refuse_mounts(self.folder)
            shutil.rmtree(self.folder, ignore_errors=True)


def _refuse_mounts(folder):
    """What is removed must not lead to the checkout: mounts are the nodes' own, and none is seen from here."""
    mounts = [line.split()[4] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()]
    inside = [place for place in mounts if pathlib.Path(place).is_relative_to(folder)]
    if inside:
        raise RuntimeError(f"{inside} are mounted: not removed")


def _signal(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _tree(root):
    children = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            parent = int(pathlib.Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry))
    found, todo = [root], [root]
    while todo:
        for pid in children.get(todo.pop(), []):
            found.append(pid)
            todo.append(pid)
    return found
