#!/usr/bin/env python3
"""The evaluator beside hotcoco 1.3.0 (LVISEval), and the reader beside Python's json with lvis-api's index.

    DIVERGEN_EVAL_DATA=FOLDER tests/bench/lvis_eval.py [--scales s001 s010 s100] [--rounds N] [--threads N] [--load]

Runs in turn, each in a fresh process: the whole command `divergen lvis-eval` (start, output and all), and in Python
LVISEval's load, evaluate, accumulate and summarize (its import not counted). The quickest round counts, in seconds of the
clock and of the processors; memory is the largest resident size. The summaries are compared with lvis-api's where
DIVERGEN_FIXTURES has them. One JSON line a case. Cores that others use too make the clock's figures useless; the
processors' stay fair.
"""
import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import eval_peers

# Targets of issue 7: at most this share of hotcoco's time and memory.
SHARES = {"bbox": (0.5, 0.5), "segm": (0.4, 1.0)}

PEER = r"""
import sys, time, json, resource
import hotcoco
start, cpu = time.perf_counter(), time.process_time()
gt = hotcoco.COCO(sys.argv[1]); e = hotcoco.LVISEval(gt, gt.load_res(sys.argv[2]), sys.argv[3])
e.evaluate(); e.accumulate(); e.summarize()
print(json.dumps({"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu,
                  "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""

LOAD_PEER = r"""
import sys, time, json, resource
from collections import defaultdict
# What lvis-api's LVIS(path) does: json.load, then its index of six dictionaries.
start, cpu = time.perf_counter(), time.process_time()
data = json.load(open(sys.argv[1]))
img_ann_map, cat_img_map = defaultdict(list), defaultdict(list)
anns, cats, imgs = {}, {}, {}
for ann in data["annotations"]:
    img_ann_map[ann["image_id"]].append(ann)
    anns[ann["id"]] = ann
for img in data["images"]: imgs[img["id"]] = img
for cat in data["categories"]: cats[cat["id"]] = cat
for ann in data["annotations"]: cat_img_map[ann["category_id"]].append(ann["image_id"])
print(json.dumps({"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu,
                  "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def run(command, environment):
    """Seconds of clock and processors and MB of a process, and what it printed."""
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=subprocess.DEVNULL, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = status
        if status != 0:
            sys.exit(f"{command[0]} failed: {status}")
        out.seek(0)
        return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024}, out.read()


def best(rounds):
    return {key: min(r[key] for r in rounds) for key in ("wall", "cpu", "rss")}


def is_exact(name, metrics):
    fixtures = os.environ.get("DIVERGEN_FIXTURES")
    expected = fixtures and pathlib.Path(fixtures) / f"eval/{name}.json"
    if not expected or not expected.exists():
        return None
    exact = json.loads(expected.read_text())["metrics_hex"]
    return all(float.fromhex(v) == metrics[k] for k, v in exact.items())


def compare(scale, kind, options, program, python):
    folder = eval_peers.data_folder() / scale
    gt, dt = folder / "gt.json", folder / f"{kind}.json"
    environment = dict(os.environ, RAYON_NUM_THREADS=str(options.threads))
    ours, peers = [], []
    metrics = None
    for _ in range(options.rounds):
        figures, out = run([program, "lvis-eval", "--gt", gt, "--dt", dt, "--iou-type", kind, "--threads", options.threads],
                           environment)
        ours.append(figures)
        metrics = json.loads(out)
        _, out = run([python, "-c", PEER, gt, dt, kind], environment)
        peers.append(json.loads(out.splitlines()[-1]))
    mine, theirs = best(ours), best(peers)
    share, memory = SHARES[kind]
    line = {"name": f"lvis_eval.{scale}.{kind}", "ours": {k: round(mine[k], 3) for k in ("wall", "cpu", "rss")},
            "peer": {k: round(theirs[k], 3) for k in ("wall", "cpu", "rss")},
            "ratio": {k: round(mine[k] / theirs[k], 3) for k in ("wall", "cpu", "rss")},
            "exact": is_exact(f"{scale}_{kind}", metrics)}
    if scale == "s001":
        line["ok"] = mine["cpu"] <= 0.060 and line["exact"] is not False
    else:
        line["ok"] = mine["cpu"] <= share * theirs["cpu"] and mine["rss"] <= memory * theirs["rss"] and line["exact"] is not False
    print(json.dumps(line), flush=True)
    return line["ok"]


def grown(source, target, bytes_wanted):
    """A file of LVIS-train's size: the annotations of `source` again and again, with new ids, on its images."""
    data = json.loads(source.read_text())
    lines = [json.dumps(a, separators=(",", ":")) for a in data["annotations"]]
    head = json.dumps({k: v for k, v in data.items() if k != "annotations"}, separators=(",", ":"))
    with open(target, "w") as out:
        written, at = out.write(head[:-1] + ',"annotations":['), 0
        while written < bytes_wanted:
            line = lines[at % len(lines)]
            at += 1
            written += out.write(("," if at > 1 else "") + '{"id":%d,' % at + line[line.index(",") + 1:])
        out.write("]}")


def load(options, python):
    program = eval_peers.build_folder() / "bin/bench_lvis_load"
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        file = pathlib.Path(scratch) / "train.json"
        grown(eval_peers.data_folder() / "s010/gt.json", file, options.bytes)
        ours = best([run([program, file, options.threads], os.environ)[0] for _ in range(options.rounds)])
        _, out = run([python, "-c", LOAD_PEER, file], os.environ)
        peer = json.loads(out)
        size = file.stat().st_size
    line = {"name": "lvis.load", "bytes": size, "ours": {k: round(ours[k], 3) for k in ("wall", "cpu", "rss")},
            "peer": {k: round(peer[k], 3) for k in ("wall", "cpu", "rss")},
            "ratio": {k: round(peer[k] / ours[k], 2) for k in ("wall", "cpu")},
            "peak_of_file": round(ours["rss"] * 2**20 / size, 3)}
    line["ok"] = line["ratio"]["cpu"] >= 10 / options.threads and line["ratio"]["wall"] >= 10 and line["peak_of_file"] <= 1.5
    print(json.dumps(line), flush=True)
    return line["ok"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", nargs="*", default=["s001", "s010", "s100"])
    parser.add_argument("--kinds", nargs="*", default=["bbox", "segm"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--load", action="store_true", help="also the reader, on a file of --bytes")
    parser.add_argument("--bytes", type=int, default=1_100_000_000)
    options = parser.parse_args()
    python = eval_peers.peer_python()
    program = eval_peers.build_folder() / "bin/divergen"
    good = [compare(scale, kind, options, program, python) for scale in options.scales for kind in options.kinds]
    if options.load:
        good.append(load(options, python))
    if not all(good):
        sys.exit("not all targets are met")


if __name__ == "__main__":
    main()
