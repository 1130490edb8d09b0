#!/usr/bin/env python3
"""The work queue on uneven work, and the simulator beside real runs; one JSON line each.

    tests/bench/work_queue.py [uneven|predict|scale ...]           (after a build; all three without an argument)

uneven   4 ranks, items of 100 ms on average spread 1:50: busy until the last claim (target >= 0.97), seconds of queue
         and commit for each second of items (target <= 0.01)
predict  simulated (ours) against real (peer) makespan on 1, 2, 4, 8, 16 ranks (target: ratio within 10 %)
scale    weak scaling in simulation on 1,000 to 100,000 ranks with the item times of the mini generator (target at
         10,000: >= 0.95)

Items sleep, so that ranks may outnumber processors.
"""
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("DIVERGEN_BUILD", ROOT / "build/release"))
ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")


def run(ranks, *arguments):
    done = subprocess.run(["mpiexec", "--oversubscribe", "--bind-to", "none", "-n", str(ranks),
                           BUILD / "tests/bench_queue", *arguments],
                          env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for line in lines:
        print(json.dumps(line), flush=True)
    return lines


def uneven():
    line = run(4, "uneven")[0]
    return line["busy"] >= 0.97 and line["overhead"] <= 0.01


def predict():
    return all(abs(run(ranks, "predict")[0]["ratio"] - 1) <= 0.1 for ranks in (1, 2, 4, 8, 16))


def scale():
    lines = run(1, "scale", str(ROOT / "data/mini/item_times.json"))
    return all(line["weak_efficiency"] >= 0.95 for line in lines
               if line["ranks"] == 10_000 and line["items_per_rank"] >= 1280)


def main():
    parts = {"uneven": uneven, "predict": predict, "scale": scale}
    wanted = sys.argv[1:] or list(parts)
    missed = [name for name in wanted if not parts[name]()]
    if missed:
        print("not reached:", ", ".join(missed), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
