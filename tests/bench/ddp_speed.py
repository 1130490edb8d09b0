#!/usr/bin/env python3
"""Training on two ranks beside one rank, each of them one thread on a core of its own, on the mini world.

    tests/bench/ddp_speed.py [--build build/release] [--iterations 60] [--rounds 5] [--out FOLDER]

The detector of configs/mini.toml, real images alone. The same work for each rank (twice the batch on two ranks) and
the same training (the whole batch divided among the ranks) are measured in turns; the median of the rounds' ratios
counts, since a shared machine's speed drifts over minutes and the runs of a round stand side by side. A rank's core
is its own for all it does: loss, gradients, reduction, and the loader's thread. Images a second are the engine's (the
stage's record), without start-up. One JSON line for each comparison: "ours" is the speed on two ranks, "peer" twice
the speed on one. Two more peers say where the rest goes: two trainings that know nothing of each other ("two apart":
what the machine itself loses when both cores work), and half the batch on one rank (the optimizer's work is the same
for fewer pictures). Wants a calm machine with two cores.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BATCH = 8  # of the whole: configs/mini.toml
# name of a measurement: trainings at the same time, ranks of each, batch over all ranks of one
RUNS = {"one": (1, 1, BATCH), "one, half the batch": (1, 1, BATCH // 2), "two apart": (2, 1, BATCH),
        "two, twice the batch": (1, 2, 2 * BATCH), "two, same batch": (1, 2, BATCH)}
COMPARISONS = [("two, twice the batch", "one"), ("two, twice the batch", "two apart"), ("two, same batch", "one"),
               ("two, same batch", "one, half the batch")]


def start(arguments, folder, name, cores, ranks, batch):
    """A training of its own from its beginning, on the named cores."""
    run = folder / name
    shutil.rmtree(run, ignore_errors=True)
    values = {"run.dir": run, "run.ranks": ranks, "run.threads_per_rank": 1,
              "train.iterations": arguments.iterations, "train.batch": batch, "train.warmup": 1,
              "train.checkpoint_every": 10**6, "train.log_every": 10}
    command = ["taskset", "-c", ",".join(map(str, cores)), arguments.build / "bin/divergen", "train",
               ROOT / "configs/mini.toml", "--training", "baseline", "--ranks", str(ranks)]
    for key, value in {**values, **world_paths(folder / "world")}.items():
        command += ["--set", f"{key}={value}"]
    return run, subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def images_per_second(arguments, folder, trainings, ranks, batch):
    """Of all trainings together."""
    cores = sorted(os.sched_getaffinity(0))
    started = [start(arguments, folder, f"run{i}", cores[i * ranks:(i + 1) * ranks], ranks, batch) for i in range(trainings)]
    for _, process in started:
        output = process.communicate()[0]
        if process.returncode != 0:
            sys.exit(f"the training ended with {process.returncode}:\n{output}")
    return sum(json.loads((run / "stages/train.baseline.json").read_text())["figures"]["images_per_second"]
               for run, _ in started)


def world_paths(world):
    """The settings of [data] for a world that divergen-miniworld has made, as configs/mini.toml names its own."""
    import tomllib
    data = tomllib.loads((ROOT / "configs/mini.toml").read_text())["data"]
    made = "runs/mini/world"
    return {f"data.{key}": str(value).replace(made, str(world)) for key, value in data.items() if made in str(value)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.build = arguments.build.resolve()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("ddp_speed wants two cores")
    folder = arguments.out or pathlib.Path(tempfile.mkdtemp(prefix="divergen-ddp-"))
    try:
        subprocess.run([arguments.build / "bin/divergen-miniworld", "--world", ROOT / "data/mini", "--out", folder / "world"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        speeds = {name: [] for name in RUNS}
        for _ in range(arguments.rounds):
            for name, (trainings, ranks, batch) in RUNS.items():
                speeds[name].append(images_per_second(arguments, folder, trainings, ranks, batch))
        for ours, peer in COMPARISONS:
            times = 1 if peer == "two apart" else 2
            ratios = [a / (times * b) for a, b in zip(speeds[ours], speeds[peer])]
            print(json.dumps({"name": f"train.data_parallel ({ours}; {peer})",
                              "ours": round(statistics.median(speeds[ours]), 3),
                              "peer": round(times * statistics.median(speeds[peer]), 3),
                              "ratio": round(statistics.median(ratios), 4), "unit": "images/s",
                              "iterations": arguments.iterations, "ratios": [round(r, 3) for r in ratios],
                              "all": {key: [round(v, 3) for v in speeds[key]] for key in (ours, peer)}}))
    finally:
        if not arguments.out:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
